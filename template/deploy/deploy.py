"""What `make deploy` and `make undeploy` do besides `kubectl apply -k`. Needs kubectl and Python's standard library, no virtual environment."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OVERLAY = "{{ cookiecutter.project_slug }}/overlay"  # the label of what an overlay names
COMPONENT = (ROOT / "deploy/components/image/kustomization.yaml").read_text()
NAME, TAG = [*re.findall(r"^ +new(?:Name|Tag): ['\"]?([^\s'\"]+)", COMPONENT, re.MULTILINE), "", ""][:2]
STUCK = {"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff"}
APPLY = ("apply", "--server-side", "--field-manager=kubectl-make", "--filename=-")  # Flux takes over from managers named kubectl*
given = {"TIMEOUT": "300"} | {name: value for name, value in os.environ.items() if value}
overlays = sorted(path.parent.name for path in ROOT.glob("deploy/overlays/*/kustomization.yaml"))


def kubectl(*arguments: str, text: str = "", check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Exits with kubectl's own reason. No --request-timeout: with it, kubectl ignores the service account of the pod that it runs in."""
    command = ["kubectl", f"--namespace={given.get('NAMESPACE', '')}", *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, errors="backslashreplace", timeout=seconds)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        sys.exit(f"make: {error}; is kubectl installed, KUBECONFIG right, and the cluster up?")
    if check and done.returncode:
        sys.exit(f"make: `{' '.join(command)}` failed: {escaped(done.stderr)}")
    return done


def escaped(text: str) -> str:  # what a pod prints could control the terminal
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def image() -> str:
    """IMAGE, or one whose tag is a digest of what it is made of, by paths relative to the project."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    excluded = [rule[3:] for rule in rules if rule.startswith("**/")]
    kept = [place for rule in rules if rule.startswith("!") for place in ROOT.glob(rule[1:].strip("/"))]
    sources = {path.relative_to(ROOT) for place in kept for path in (place, *place.rglob("*")) if path.is_file()}
    digest = hashlib.sha256(given.get("BASE_IMAGE", "").encode())
    for path in (Path("Dockerfile"), Path(".dockerignore"), *sorted(sources)):
        if not any(Path(part).match(pattern) for part in path.parts for pattern in excluded):
            digest.update(f"{path.as_posix()}\0".encode() + (ROOT / path).read_bytes() + b"\0")
    return given.get("IMAGE") or f"{NAME}:{digest.hexdigest()[:12]}"


def render(overlay: str) -> str:
    """What `kubectl apply -k` applies, with the image to deploy in place of that of components/image."""
    text, ours = kubectl("kustomize", str(ROOT / "deploy/overlays" / overlay)).stdout, f" image: {NAME}:{TAG}\n"
    if ours in text:
        version = "".join(re.findall(r"[:@]([^/:]{1,63})[^/:]*$", image())).strip("._-") or "latest"
        text = re.sub(r"(app.kubernetes.io/version): .*", rf'\1: "{version}"', text.replace(ours, f" image: {image()}\n"))
    return re.sub(r"gcr.io/etcd-development/etcd:\S+", given["ETCD_IMAGE"], text) if "ETCD_IMAGE" in given else text


def chosen() -> str:
    """ENV or DISCOVERY; else the overlay that runs, so that a forgotten variable changes nothing; else the project's default."""
    if not given["TIMEOUT"].isdecimal():
        sys.exit(f"make: TIMEOUT={given['TIMEOUT']} is not a number of seconds; write for example TIMEOUT=300")
    asked = {given[name] for name in ("ENV", "DISCOVERY") if name in given}
    if (overlay := " and ".join(sorted(asked)) or "{{ cookiecutter.discovery }}") not in overlays:
        sys.exit(f"make: there is no deploy/overlays/{overlay}; ENV or DISCOVERY must be one of {', '.join(overlays)}")
    given.setdefault("NAMESPACE", "".join(re.findall(r"^metadata:\n(?:  .*\n)*?  namespace: (\S+)", render(overlay), re.M)[:1]))
    kubectl("get", "--raw=/version", seconds=20)
    running = json.loads(kubectl("get", "deployments", f"--selector={OVERLAY}", "--output=json").stdout)["items"]
    before = next((item["metadata"]["labels"][OVERLAY] for item in running), "")
    text = render(overlay := overlay if asked else before or overlay)
    if not re.search(f'    {OVERLAY}: "?{overlay}"?\n', text):
        sys.exit(f"make: deploy/overlays/{overlay} must set the label {OVERLAY}: {overlay}, by which it is found the next time")
    if overlay != before and "TLS__MODE" in json.dumps(running) and "TLS__MODE" not in text:
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
    """Try, so that what would be refused changes nothing; apply, wait until all pods are new and ready, and delete what is left."""
    text = render(chosen())
    trial = "---\n".join(part for part in text.split("---\n") if "\nkind: RoleBinding\n" not in part)  # it needs its Role
    refused = kubectl(*APPLY, "--dry-run=server", text=trial, check=False).stderr
    # Forced against people's `kubectl rollout undo`, `edit`, `apply`; not against other tools, nor over the number of replicas.
    never = r'\.spec\.replicas|conflicts? with "(?!kubectl|make-deploy)'
    force = ["--force-conflicts"] if "conflict" in refused and not re.search(never, refused) else []
    replicas = "--output=jsonpath={range .items[?(@.kind=='Deployment')]}{.metadata.name} {.spec.replicas};{end}"
    after = kubectl(*APPLY, *force, "--dry-run=server", replicas, text=trial).stdout.split(";")
    now = kubectl("get", "deployments", replicas).stdout
    scaled = re.findall(r"\n  scaleTargetRef:\n(?:    .*\n)*?    name: (\S+)", text)
    if any(f"{name} 1" in after and re.search(rf"\b{name} (?!1;)", now) for name in scaled):
        sys.exit("make: one replica would be left; give the number to the autoscaler first: docs/operating.md, Replicas")
    print(applied := kubectl(*APPLY, *force, text=text).stdout, end="", flush=True)
    wanted = frozenset(line.split()[0] for line in applied.splitlines())
    for name in sorted((each for each in wanted if each.startswith(("deployment.", "statefulset."))), reverse=True):
        wait(name)
    delete(wanted, "--wait=false")


def wait(name: str) -> None:
    """Exits with events and logs if a new pod cannot start, which two looks in a row show, or after TIMEOUT seconds (300)."""
    until, before, shown = time.monotonic() + int(given["TIMEOUT"]), set[str](), ""
    while (done := kubectl("rollout", "status", name, "--timeout=5s", check=False)).returncode:
        replica_sets = re.findall(r"NewReplicaSet: +([^\s<]+)", kubectl("describe", name, check=False).stdout)
        owner = f"replicaset/{replica_sets[0]}" if replica_sets else name
        new = re.findall(rf"^({owner.split('/')[1]}-\S+) +(\d+)/(\d+) +(\S+)", kubectl("get", "pods", check=False).stdout, re.M)
        stuck = {pod for pod, _, _, status in new if status in STUCK}
        if stuck & before or time.monotonic() > until:
            print(escaped(kubectl("events", f"--for={owner}", check=False).stdout), end="", flush=True)
            for pod in [pod for pod, ready, containers, _ in new if ready != containers][:3]:
                for show in (["events", f"--for=pod/{pod}"], ["logs", pod, "--tail=9", "--previous"], ["logs", pod, "--tail=9"]):
                    print(escaped(kubectl(*show, check=False).stdout), end="", flush=True)
            sys.exit(f"make: {name} is not rolled out: {escaped(done.stdout + done.stderr)}")
        print(done.stdout if done.stdout != shown else "", end="", flush=True)
        before, shown = stuck, done.stdout
    print(done.stdout, end="", flush=True)


def delete(wanted: frozenset[str] = frozenset(), how: str = "--cascade=foreground") -> None:
    """What else the overlays name, callers before servers: only what bears the label, and only what namespaces contain."""
    chosen()  # sets the namespace, where nothing has been applied before
    create = ("create", "--dry-run=client", "--validate=false", "--output=name", "--filename=-")
    names = kubectl(*create, text="\n---\n".join(map(render, overlays)), check=False).stdout.split()
    for kind, name in (each.split("/") for each in sorted({*names} - wanted, key=lambda each: each.replace("deployment.", " "))):
        if not re.match("namespace|cluster|customresource|persistentvolume$|priorityclass|storageclass", kind):
            deleted = kubectl("delete", kind, f"--field-selector=metadata.name={name}", f"--selector={OVERLAY}", how).stdout
            print(deleted.replace("No resources found\n", ""), end="", flush=True)


def escape() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make logs | head`
    sys.stdin.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for line in sys.stdin:
        print(escaped(line), end="", flush=True)


signal.signal(signal.SIGINT, signal.SIG_DFL)
commands = {"check": check, "apply": apply, "undeploy": delete, "escape": escape}
commands.get(sys.argv[1], lambda: print(render(chosen()) if sys.argv[1] == "render" else image(), end=""))()
