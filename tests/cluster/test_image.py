"""The image: what is in it, who it runs as, and how `make lock` pins its base. Needs buildah; the lock a registry and skopeo, too."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bake import SLUG, bake, make, run_make

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah: apt-get install buildah"),
]

INSIDE = """
import importlib.util, json, os, shutil
import greeter.client.load_generator, greeter.discovery.sources.kubernetes, greeter.server.app

roots = ("/app", "/opt/venv")
unreadable = []
names = set()
for root in roots:
    for folder, folders, files in os.walk(root, onerror=lambda error: unreadable.append(error.filename)):
        unreadable += [f"{folder}/{name}" for name in files if not os.access(f"{folder}/{name}", os.R_OK)]
        names |= {*folders, *(os.path.splitext(name)[1] for name in files)}
print(json.dumps({
    "user": f"{os.getuid()}:{os.getgid()}",
    "packages": [name for name in ("pip", "ensurepip", "setuptools", "kubernetes", "pytest") if importlib.util.find_spec(name)],
    "programs": [name for name in ("pip", "pip3", "cc", "gcc", "buf", "protoc", "make") if shutil.which(name)],
    "unreadable": unreadable,
    "writable": [root for root in roots if os.access(root, os.W_OK)],
    "kinds": sorted(names & {"tests", ".pyi", ".proto"}),
    "compiled": importlib.util.cache_from_source(greeter.server.app.__file__) == greeter.server.app.__cached__ and os.path.exists(greeter.server.app.__cached__),
}))
"""


def buildah(*arguments: str, cwd: Path | None = None, umask: int = -1) -> str:
    """What it printed."""
    done = subprocess.run(["buildah", *arguments], cwd=cwd, umask=umask, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of files that only their owner can read, built under an umask that makes more of them; and again, for another version."""
    project = bake(tmp_path_factory.mktemp("image"))
    make(project, "stubs")
    for path in project.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    name = f"localhost/image-test:{uuid.uuid4().hex[:8]}"
    arguments = ["build", "--quiet", "--layers", "--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}", "--tag", name]
    for version in ("1.2.2", "1.2.3"):
        buildah(*arguments, "--build-arg", f"VERSION={version}", ".", cwd=project, umask=0o077)
    yield name
    buildah("rmi", name)


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    """What the image says of itself."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
    return found


@pytest.fixture(scope="module")
def inside(image: str, config: dict[str, Any]) -> dict[str, Any]:
    """What a process of the image's user sees, which imports the server and the client."""
    container = buildah("from", "--pull-never", image)
    try:
        found: dict[str, Any] = json.loads(buildah("run", "--user", config["User"], container, "--", "python", "-c", INSIDE))
    finally:
        buildah("rm", container)
    return found


def test_its_user_can_read_all_and_change_nothing(inside: dict[str, Any]) -> None:
    """Whatever the builder's umask and the modes of the checkout; modules are compiled, because a read-only root keeps nothing."""
    assert inside["user"] == "65532:65532"
    assert inside["unreadable"] == []
    assert inside["writable"] == []
    assert inside["compiled"]


def test_it_has_nothing_that_only_builds_or_tests(inside: dict[str, Any]) -> None:
    """No installer, compiler, tests, or stubs; no Kubernetes client, since a pod needs none."""
    assert {name: inside[name] for name in ("packages", "programs", "kinds")} == {"packages": [], "programs": [], "kinds": []}


def test_it_says_what_it_is_and_how_it_runs(config: dict[str, Any]) -> None:
    """For the runtime, telemetry, and whoever finds it in a registry."""
    assert (config["User"], config["StopSignal"], config["Entrypoint"]) == ("65532:65532", "SIGTERM", ["python"])
    assert config["Cmd"] == ["-m", f"{SLUG}.server"]
    assert "SERVICE_VERSION=1.2.3" in config["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert {"title": SLUG, "version": "1.2.3"}.items() <= labels.items()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An image registry on the loopback; its host and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(tmp_path / "data")}}, "http": {"addr": address}}
    (tmp_path / "registry.json").write_text(json.dumps(settings))
    with subprocess.Popen(["docker-registry", "serve", str(tmp_path / "registry.json")], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert any(b"listening on" in line for line in process.stderr)
            yield address
        finally:
            process.terminate()


def push(name: str, label: str) -> str:
    """An image for two platforms; the digest of the list of both, as the registry has it."""
    index = f"localhost/index-{uuid.uuid4().hex[:8]}"
    containers = [buildah("from", "scratch") for _ in ("amd64", "arm64")]
    try:
        buildah("manifest", "create", index)
        for container, architecture in zip(containers, ("amd64", "arm64"), strict=True):
            buildah("config", "--arch", architecture, "--label", f"content={label}", container)
            buildah("commit", "--quiet", container, f"{index}-{architecture}")
            buildah("manifest", "add", index, f"containers-storage:{index}-{architecture}:latest")
        buildah("manifest", "push", "--all", "--tls-verify=false", index, f"docker://{name}")
    finally:
        buildah("rm", *containers)
        buildah("rmi", "--force", index, f"{index}-amd64", f"{index}-arm64")
    host, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    asked = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{tag}")
    asked.add_header(
        "Accept", "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return f"sha256:{hashlib.sha256(answer.read()).hexdigest()}"


@pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs a registry and skopeo: apt-get install docker-registry skopeo",
)
def test_make_lock_pins_the_base_image_by_the_digest_of_all_its_platforms_and_refreshes_it(tmp_path: Path, registry: str) -> None:
    """The tag stays beside it, and the rest of the Dockerfile as it was."""
    project, name = bake(tmp_path / "project"), f"{registry}/team/python:3.11-slim"
    containers = tmp_path / "home" / ".config" / "containers"
    containers.mkdir(parents=True)
    (containers / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    dockerfile = project / "Dockerfile"
    before = dockerfile.read_text().splitlines()
    [at] = [number for number, line in enumerate(before) if line.startswith("ARG BASE_IMAGE=")]
    dockerfile.write_text("\n".join([*before[:at], f"ARG BASE_IMAGE={name}", *before[at + 1 :], ""]))
    for label in ("first", "second"):
        digest = push(name, label)
        done = run_make(project, "lock-base-image", HOME=str(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        assert dockerfile.read_text().splitlines() == [*before[:at], f"ARG BASE_IMAGE={name}@{digest}", *before[at + 1 :]]
    assert buildah("rm", buildah("from", "--pull-always", "--tls-verify=false", f"{name}@{digest}"))
