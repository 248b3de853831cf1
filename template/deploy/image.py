"""The image: named after its content, built by any of three tools, pushed to a registry or loaded into a cluster on this machine."""

import hashlib
import shlex
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from .kubectl import Kubectl, RefusedError, need, run
from .site import FOLDER, IMAGE, Site

ROOT = FOLDER.parent
LOADERS = {
    "kind-": "kind load docker-image --name {}",
    "k3d-": "k3d image import --cluster {}",
    "minikube": "minikube image load",
}
"""How an image comes into a cluster on this machine, by the beginning of its context's name."""


def name(site: Site) -> str:
    """The site's image, or one whose tag changes when, and only when, something in it does."""
    return site.image or f"{IMAGE}:{version(site)}"


def version(site: Site) -> str:
    """A hash of all that the image is made of: the names below the project, and the content; the Dockerfile sets the modes."""
    digest = hashlib.sha256(site.base_image.encode())
    for path in (ROOT / "Dockerfile", ROOT / ".dockerignore", ROOT / "requirements" / "image.lock", *_sources()):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _sources() -> list[Path]:
    """What COPY takes from src: the files that no `**/` line of .dockerignore excludes."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    excluded = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    return sorted(
        path
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and not any(fnmatch(part, name) for part in path.relative_to(ROOT).parts for name in excluded)
    )


def build(site: Site) -> str:
    """Build it; returns its name."""
    tool = site.tool()
    for proto in (ROOT / "proto").rglob("*.proto"):
        stub = ROOT / "src" / proto.relative_to(ROOT / "proto").with_name(f"{proto.stem}_pb2.py")
        if not stub.exists():
            raise RefusedError(f"{proto.relative_to(ROOT)} has no stubs in src to put into the image; make stubs generates them")
    arguments = [f"--build-arg=BASE_IMAGE={site.base_image}"] if site.base_image else []
    # buildah keeps no layers unless it is told to.
    arguments += ["--layers"] if Path(tool).name == "buildah" else []
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("description", "")
    labels = {"description": described, "revision": _revision()}
    arguments += [f"--label=org.opencontainers.image.{key}={value}" for key, value in labels.items() if value]
    _run(site, tool, "build", *arguments, f"--build-arg=VERSION={version(site)}", "--tag", name(site), str(ROOT))
    return name(site)


def deliver(kubectl: Kubectl, site: Site) -> None:
    """Load it into the cluster where that is the way, or else push it."""
    loader = _loader(kubectl, site)
    if loader:
        _run(site, *loader, name(site))
    else:
        push(site)


def push(site: Site) -> None:
    """To the registry in the image's name. Raises RefusedError where it has none."""
    image = name(site)
    if image.startswith("localhost/") or "/" not in image:
        raise RefusedError(
            f"the image {image} names no registry to push to; set IMAGE=registry/name:tag, or, for a cluster on this machine, "
            "LOAD_IMAGE to the command that loads an image into it, such as LOAD_IMAGE='kind load docker-image'"
        )
    _run(site, site.tool(), "push", image)


def load(kubectl: Kubectl, site: Site) -> None:
    """Into a cluster on this machine. Raises RefusedError where nothing says how."""
    loader = _loader(kubectl, site)
    if not loader:
        raise RefusedError(
            "LOAD_IMAGE is empty, and the cluster is none of kind, k3d, minikube; set it to a command that loads an image"
        )
    _run(site, *loader, name(site))


def can_be_delivered(kubectl: Kubectl, site: Site) -> None:
    """Before a build of minutes: raises RefusedError where its result could go nowhere."""
    site.tool()
    if not _loader(kubectl, site) and (name(site).startswith("localhost/") or "/" not in name(site)):
        push(site)


def _loader(kubectl: Kubectl, site: Site) -> list[str]:
    if site.load_image:
        command = shlex.split(site.load_image)
        need(command[0], "LOAD_IMAGE names it")
        return command
    context = kubectl.call("config", "current-context").strip()
    for beginning, command_line in LOADERS.items():
        if context.startswith(beginning) and shutil.which(command_line.split()[0]):
            return command_line.format(context.removeprefix(beginning)).split()
    return []


def _revision() -> str:
    """The commit, where there is one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(site: Site, *command: str) -> None:
    if site.dry_run:
        print("would run: " + shlex.join(command))
    else:
        run(*command)
