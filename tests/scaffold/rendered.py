"""What kubectl makes of a baked project's deploy/: objects by kind and name, and which connections the network policies admit."""

import functools
import io
import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tests.bake import ROOT, SLUG, bake

NEEDS_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl on PATH, and no cluster: https://kubernetes.io/docs/tasks/tools"
)


def _folders(parent: str) -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "template" / "deploy" / parent).glob("*/kustomization.yaml"))


OVERLAYS = _folders("overlays")
MODES = [name for name in OVERLAYS if name != "production"]
COMPONENTS = tuple(sorted({*_folders("components")} - {"image", "etcd", "etcd-external", "rbac-client"}))
"""Those that fit every mode; the others belong to one."""

TEMPORARY = tempfile.TemporaryDirectory(prefix="rendered-")
"""Deleted when Python ends."""

VENV = ROOT / "build" / "venv"
PREFIX = f"{SLUG.upper()}__"
PART_OF = "app.kubernetes.io/part-of"
CUSTOM = {"GRPCRoute", "PrometheusRule"}
"""Kinds that an extension brings; tests of their own compare them with its schema."""

ENDPOINT_SLICES = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]
"""The rules of a Role: what a caller by the Kubernetes API may do, and nothing else."""

Object = dict[str, Any]


@functools.cache
def project() -> Path:
    """The default project, baked once, with its stubs."""
    made = bake(Path(tempfile.mkdtemp(dir=TEMPORARY.name)))
    make(made, "stubs", VENV=str(VENV))
    return made


def deploy(
    target: str, *arguments: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """deploy.py as make calls it, whatever comes of it."""
    command = [sys.executable, "-B", "deploy/deploy.py", target, *arguments]
    environment = {**os.environ, **(variables or {})}
    return subprocess.run(command, cwd=folder or project(), env=environment, capture_output=True, text=True, timeout=60)


def make(folder: Path, target: str, **variables: str) -> str:
    """What a make target prints. Raises AssertionError where it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    command = ["make", "-s", target, *(f"{name}={value}" for name, value in variables.items())]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def text(place: Path) -> str:
    """What `kubectl kustomize` prints for a folder as it lies."""
    done = subprocess.run(["kubectl", "kustomize", str(place)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kustomize(place: Path) -> list[Object]:
    """The objects of a folder as it lies."""
    return list(yaml.safe_load_all(text(place)))


def on_top(deploy: Path, overlay: str, *, components: Sequence[str] = (), **fields: Any) -> Path:
    """A new folder with an overlay on top of one of the project's, as an environment of its own would be written."""
    place = Path(tempfile.mkdtemp(dir=TEMPORARY.name))
    relative = Path(os.path.relpath(deploy, place))
    labels = {"instance": SLUG, "part-of": SLUG, "managed-by": "kustomize", "version": "latest"}
    content = {
        "resources": [str(relative / "overlays" / overlay)],
        "components": [str(relative / "components" / name) for name in components],
        "labels": [{"pairs": {f"app.kubernetes.io/{name}": value for name, value in labels.items()}}],
        **fields,
    }
    (place / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return place


@functools.cache
def folder_of(overlay: str, *components: str) -> Path:
    """An overlay of the project; with components that it does not list, a new one on top of it."""
    deploy = project() / "deploy"
    listed = kustomization(deploy / "overlays" / overlay)["components"]
    added = [name for name in components if f"../../components/{name}" not in listed]
    return on_top(deploy, overlay, components=added) if added else deploy / "overlays" / overlay


@functools.cache
def objects(overlay: str, *components: str) -> tuple[Object, ...]:
    """All objects of an overlay, with components besides its own."""
    return tuple(kustomize(folder_of(overlay, *components)))


def kustomization(place: Path) -> Object:
    """The file, read."""
    found: Object = yaml.safe_load((place / "kustomization.yaml").read_text())
    return found


def of_kind(overlay: str, kind: str, *components: str) -> dict[str, Object]:
    """By name."""
    return {item["metadata"]["name"]: item for item in objects(overlay, *components) if item["kind"] == kind}


def pods(overlay: str, *components: str) -> dict[str, Object]:
    """The pod templates, by the name of what makes them."""
    makers = {**of_kind(overlay, "Deployment", *components), **of_kind(overlay, "StatefulSet", *components)}
    return {name: item["spec"]["template"] for name, item in makers.items()}


def environment(overlay: str, role: str, *components: str) -> dict[str, str]:
    """What the container of server or load-generator gets; what only a running pod has is an example."""
    container = pods(overlay, *components)[f"{SLUG}-{role}"]["spec"]["containers"][0]
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    examples = {"status.podIP": "10.1.2.3", "metadata.namespace": "team", "metadata.name": "pod-1", "limits.memory": str(memory)}
    found: dict[str, str] = {}
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        field = source.get("fieldRef", {}).get("fieldPath") or source.get("resourceFieldRef", {}).get("resource")
        value = entry["value"] if "value" in entry else examples.get(field, "")
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


@functools.cache
def settings(overlay: str, role: str, *components: str) -> dict[str, str]:
    """What the program makes of its environment in the pod: the settings in force, less the prefix. A name that is no setting is refused."""
    given = environment(overlay, role, *components)
    given.pop(f"{PREFIX}SETTINGS_DIR", None)  # no Secret is mounted here
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    clean["PYTHONPATH"] = str(project() / "src")
    arguments = pods(overlay, *components)[f"{SLUG}-{role}"]["spec"]["containers"][0]["args"]
    command = [str(VENV / "bin" / "python"), *arguments, "--print-settings"]
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(command, cwd=empty, env=clean | given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = dotenv_values(stream=io.StringIO(done.stdout), interpolate=False)
    return {name.removeprefix(PREFIX): value or "" for name, value in printed.items()}


def seconds(setting: str) -> float:
    """A duration as settings print it."""
    return float(setting.removesuffix("s"))


@dataclass(frozen=True)
class Pod:
    """One end of a connection, in the project's namespace or another."""

    labels: Mapping[str, str]
    namespace: str = "team"
    address: str = "10.244.0.7"


@dataclass(frozen=True)
class Flow:
    """One connection. What is not a pod is an address."""

    source: Pod | str
    destination: Pod | str
    port: int
    protocol: str = "TCP"


def admitted(overlay: str, flow: Flow, *components: str) -> bool:
    """By the rules of networking.k8s.io/v1: policies that select a pod add up; a pod that none selects is open."""
    policies = [item["spec"] for item in of_kind(overlay, "NetworkPolicy", *components).values()]
    return _side(policies, "Egress", flow.source, flow.destination, flow) and _side(
        policies, "Ingress", flow.destination, flow.source, flow
    )


def _side(policies: list[Object], way: str, end: Pod | str, peer: Pod | str, flow: Flow) -> bool:
    if isinstance(end, str) or end.namespace != Pod.namespace:
        return True
    selecting = [policy for policy in policies if way in policy["policyTypes"] and _fits(policy["podSelector"], end.labels)]
    rules = [rule for policy in selecting for rule in policy.get(way.lower()) or []]
    return not selecting or any(_rule(rule, "to" if way == "Egress" else "from", peer, flow) for rule in rules)


def _rule(rule: Object, peers: str, peer: Pod | str, flow: Flow) -> bool:
    here = not rule.get(peers) or any(_peer(item, peer) for item in rule[peers])
    ports = rule.get("ports")
    return here and (
        not ports or any((item["port"], item.get("protocol", "TCP")) == (flow.port, flow.protocol) for item in ports)
    )


def _peer(item: Object, peer: Pod | str) -> bool:
    """An ipBlock admits a pod's address, too: most plug-ins have it so."""
    if "ipBlock" in item:
        address = ipaddress.ip_address(peer if isinstance(peer, str) else peer.address)
        inside, outside = item["ipBlock"]["cidr"], item["ipBlock"].get("except", [])
        return address in ipaddress.ip_network(inside) and not any(address in ipaddress.ip_network(each) for each in outside)
    if isinstance(peer, str):
        return False
    if "namespaceSelector" in item:
        here = _fits(item["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    else:
        here = peer.namespace == Pod.namespace
    return here and _fits(item.get("podSelector", {}), peer.labels)


def _fits(selector: Object, labels: Mapping[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
