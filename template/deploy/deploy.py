"""What `make deploy` and `make undeploy` do besides `kubectl apply -k`. Needs kubectl and Python's standard library, no virtual environment."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TLS = "{{ cookiecutter.__prefix }}TLS__MODE"
OVERLAY = "{{ cookiecutter.project_slug }}/overlay"  # the label of what an overlay names
COMPONENT = (ROOT / "deploy/components/image/kustomization.yaml").read_text()
NAME, TAG = [*re.findall(r"^ +new(?:Name|Tag): ['\"]?([^\s'\"]+)", COMPONENT, re.MULTILINE), "", ""][:2]
STUCK = {"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff"}
APPLY = ("apply", "--server-side", "--field-manager=kubectl-make", "--filename=-")  # Flux takes over from managers named kubectl*
given = {"NAMESPACE": "", "TIMEOUT": "300"} | {name: value for name, value in os.environ.items() if value}
overlays = sorted(path.parent.name for path in ROOT.glob("deploy/overlays/*/kustomization.yaml"))


def kubectl(*arguments: str, text: str = "", check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Exits with kubectl's own reason. No --request-timeout: with it, kubectl ignores the service account of the pod that it runs in."""
    command = ["kubectl", f"--namespace={given['NAMESPACE']}", *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, errors="backslashreplace", timeout=seconds)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        sys.exit(f"make: {error}; is kubectl installed, KUBECONFIG right, and the cluster up?")
    if check and done.returncode:
        sys.exit(f"make: `{' '.join(command)}` failed: {escaped(done.stderr)}")
    return done


def escaped(text: str) -> str:
    """What a pod prints could control the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def image() -> str:
    """IMAGE, or one whose tag is a digest of what it is made of, by paths relative to the project."""
    excluded = [line[3:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("**/")]
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "src").rglob("*") if path.is_file())
    digest = hashlib.sha256(given.get("BASE_IMAGE", "").encode())
    for path in (Path("Dockerfile"), Path(".dockerignore"), Path("requirements/image.lock"), *sources):
        if not any(fnmatch(part, pattern) for part in path.parts for pattern in excluded):
            digest.update(f"{path.as_posix()}\0".encode() + (ROOT / path).read_bytes() + b"\0")
    return given.get("IMAGE") or f"{NAME}:{digest.hexdigest()[:12]}"


def render(overlay: str) -> str:
    """What `kubectl apply -k` applies, with the image to deploy in place of that of components/image."""
    text, ours = kubectl("kustomize", str(ROOT / "deploy/overlays" / overlay)).stdout, f" image: {NAME}:{TAG}\n"
    if ours in text:
        version = "".join(re.findall(r"[:@]([^/:]{1,63})[^/:]*$", image())).strip("._-") or "latest"
        text = re.sub(r"(app.kubernetes.io/version): .*", rf'\1: "{version}"', text.replace(ours, f" image: {image()}\n"))
    return re.sub(r"gcr.io/etcd-development/etcd:\S+", given["ETCD_IMAGE"], text) if "ETCD_IMAGE" in given else text


def named() -> set[str]:  # by all overlays, as resource.group/name; without kinds that this cluster does not have
    create = ("create", "--dry-run=client", "--validate=false", "--output=name", "--filename=-")
    return set(kubectl(*create, text="\n---\n".join(map(render, overlays)), check=False).stdout.split())


def chosen() -> str:
    """ENV or DISCOVERY; else the overlay that runs, so that a forgotten variable changes nothing; else the project's default."""
    if not given["TIMEOUT"].isdecimal():
        sys.exit(f"make: TIMEOUT={given['TIMEOUT']} is not a number of seconds; write for example TIMEOUT=300")
    asked = {given[name] for name in ("ENV", "DISCOVERY") if name in given}
    if (overlay := " and ".join(sorted(asked)) or "{{ cookiecutter.discovery }}") not in overlays:
        sys.exit(f"make: there is no deploy/overlays/{overlay}; ENV or DISCOVERY must be one of {', '.join(overlays)}")
    given["NAMESPACE"] = given["NAMESPACE"] or "".join(re.findall(r"^  namespace: (\S+)", render(overlay), re.MULTILINE)[:1])
    kubectl("get", "--raw=/version", seconds=20)
    running = json.loads(kubectl("get", "deployments", f"--selector={OVERLAY}", "--output=json").stdout)["items"]
    before = next((item["metadata"]["labels"][OVERLAY] for item in running), "")
    overlay = overlay if asked else before or overlay
    if overlay != before and TLS in json.dumps(running) and TLS not in render(overlay):
        sys.exit(f"make: {before} runs with TLS, and deploy/overlays/{overlay} would turn it off; add components/mtls to it")
    return overlay


def check() -> None:
    """Refuse what cannot be done before anything is; print the image that must be built, if one must."""
    used = f" image: {image()}\n" in render(overlay := chosen())
    if "IMAGE" in given and not used:
        sys.exit(f"make: IMAGE={image()} would not be used: deploy/overlays/{overlay} names an image itself; change it there")
    if used and "IMAGE" not in given:
        nowhere = f"make: {image()} names no image registry; set newName in deploy/components/image, or IMAGE, or LOAD_IMAGE"
        sys.exit(nowhere) if image().startswith("localhost/") and "LOAD_IMAGE" not in given else print(image())


def apply() -> None:
    """Apply, wait until all pods are new and ready, and delete what only other overlays name."""
    text, before = render(chosen()), named()
    # What would be refused, before anything is changed. Not bindings: they need their Role, which may not be there yet.
    trial = "---\n".join(part for part in text.split("---\n") if "\nkind: RoleBinding\n" not in part)
    done = kubectl(*APPLY, "--dry-run=server", text=trial, check=False)
    # Forced against `kubectl rollout undo`, `edit`, `apply`; not over the number of replicas, which may be an autoscaler's.
    force = ["--force-conflicts"] if "conflict" in done.stderr and ".spec.replicas" not in done.stderr else []
    kubectl(*APPLY, *force, "--dry-run=server", text=trial)
    print(applied := kubectl(*APPLY, *force, text=text).stdout, end="", flush=True)
    wanted = {line.split()[0] for line in applied.splitlines()}
    for name in sorted(each for each in wanted if each.startswith(("deployment.", "statefulset."))):
        wait(name)
    delete(before - wanted, "--wait=false")


def wait(name: str) -> None:
    """Exits with events and logs if a new pod cannot start, which two looks in a row show, or after TIMEOUT seconds (300)."""
    until, before, shown = time.monotonic() + int(given["TIMEOUT"]), set[str](), ""
    while (done := kubectl("rollout", "status", name, "--timeout=5s", check=False)).returncode:
        owner = re.search(r"NewReplicaSet: +(\S+)", kubectl("describe", name, check=False).stdout)
        rows = [row.split() for row in kubectl("get", "pods", "--no-headers", check=False).stdout.splitlines()]
        newest = [row for row in rows if row[0].startswith(f"{owner[1] if owner else name.partition('/')[2]}-")]
        stuck = {row[0] for row in newest if row[2] in STUCK}
        if stuck & before or time.monotonic() > until:
            for pod in [row[0] for row in newest if row[1].split("/")[0] != row[1].split("/")[1]][:3]:
                for show in (["events", f"--for=pod/{pod}"], ["logs", pod, "--tail=9", "--previous"], ["logs", pod, "--tail=9"]):
                    print(escaped(kubectl(*show, check=False).stdout), end="", flush=True)
            sys.exit(f"make: {name} is not rolled out: {escaped(done.stdout + done.stderr)}")
        print(done.stdout if done.stdout != shown else "", end="", flush=True)
        before, shown = stuck, done.stdout
    print(done.stdout, end="", flush=True)


def delete(those: set[str], *arguments: str) -> None:
    """Deployments first, callers before servers. The label keeps what has such a name by chance."""
    for kind, name in sorted((each.split("/") for each in those), key=lambda each: (not each[0].startswith("deployment"), each)):
        which = (f"--field-selector=metadata.name={name}", f"--selector={OVERLAY}")
        print(kubectl("delete", kind, *which, *arguments).stdout.replace("No resources found\n", ""), end="", flush=True)


def undeploy() -> None:
    """Delete what the overlays name, and wait for the pods' end."""
    chosen()
    delete(named(), "--cascade=foreground")


def escape() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make logs | head`
    sys.stdin.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for line in sys.stdin:
        print(escaped(line), end="", flush=True)


signal.signal(signal.SIGINT, signal.SIG_DFL)
commands = {"check": check, "apply": apply, "undeploy": undeploy, "escape": escape}
commands.get(sys.argv[1], lambda: print(render(chosen()) if sys.argv[1] == "render" else image(), end=""))()
