"""What kubectl makes of a baked project's deploy/: objects by kind and name, and which connections the network policies admit."""

import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
MODES = sorted(path.name for path in (ROOT / "template" / "deploy" / "overlays").iterdir())
COMPONENTS = ("autoscale", "mtls", "zones")
"""Those that fit every mode."""

VENV = ROOT / "build" / "venv"
PREFIX = f"{SLUG.upper()}__"

ENDPOINT_SLICES = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]
"""The rules of a Role: what a caller by the Kubernetes API may do, and nothing else."""

Object = dict[str, Any]


@functools.cache
def project() -> Path:
    """The default project, baked once, with its stubs."""
    made = bake(Path(tempfile.mkdtemp(prefix="rendered-")))
    make(made, "stubs", VENV=str(VENV))
    return made


def deploy(
    target: str, *arguments: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m deploy` as make calls it, whatever comes of it."""
    command = [sys.executable, "-B", "-m", "deploy", target, *arguments]
    environment = {**os.environ, **(variables or {})}
    return subprocess.run(command, cwd=folder or project(), env=environment, capture_output=True, text=True, timeout=60)


def make(folder: Path, target: str, **variables: str) -> str:
    """What a make target prints. Raises AssertionError where it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    command = ["make", "-s", target, *(f"{name}={value}" for name, value in variables.items())]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def objects(mode: str, *components: str) -> tuple[Object, ...]:
    """All objects of a mode, as `make manifests` prints them."""
    return tuple(yaml.safe_load_all(make(project(), "manifests", DISCOVERY=mode, COMPONENTS=" ".join(components))))


def kustomize(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder as it lies."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(mode: str, kind: str, *components: str) -> dict[str, Object]:
    """By name."""
    return {item["metadata"]["name"]: item for item in objects(mode, *components) if item["kind"] == kind}


def pods(mode: str, *components: str) -> dict[str, Object]:
    """The pod templates, by the name of what makes them."""
    makers = {**of_kind(mode, "Deployment", *components), **of_kind(mode, "StatefulSet", *components)}
    return {name: item["spec"]["template"] for name, item in makers.items()}


def environment(mode: str, role: str, *components: str) -> dict[str, str]:
    """What the role's container gets; what only a running pod knows is an example."""
    container = pods(mode, *components)[f"{SLUG}-{role}"]["spec"]["containers"][0]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= of_kind(mode, "ConfigMap", *components)[source["configMapRef"]["name"]]["data"]
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    examples = {"status.podIP": "10.1.2.3", "metadata.namespace": "team", "limits.memory": str(memory)}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        field = source.get("fieldRef", {}).get("fieldPath") or source.get("resourceFieldRef", {}).get("resource")
        value = entry["value"] if "value" in entry else examples.get(field, "")
        found[entry["name"]] = value.replace("$(POD_NAMESPACE)", examples["metadata.namespace"])
    return found


@functools.cache
def settings(mode: str, role: str, *components: str) -> dict[str, str]:
    """What the program makes of its environment in the pod: the settings in force, less the prefix. A name that is no setting is refused."""
    given = environment(mode, role, *components)
    given.pop(f"{PREFIX}SETTINGS_DIR", None)  # no Secret is mounted here
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    clean["PYTHONPATH"] = str(project() / "src")
    command = [str(VENV / "bin" / "python"), "-m", f"{SLUG}.server", "--print-settings"]
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(command, cwd=empty, env=clean | given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = dotenv_values(stream=io.StringIO(done.stdout), interpolate=False)
    return {name.removeprefix(PREFIX): value or "" for name, value in printed.items()}


def seconds(setting: str) -> float:
    """A duration as settings print it."""
    return float(setting.removesuffix("s"))


@dataclass(frozen=True)
class Flow:
    """One connection: between pods by their labels, None for what is not a pod of the namespace."""

    source: dict[str, str] | None
    destination: dict[str, str] | None
    port: int
    protocol: str = "TCP"


def admitted(mode: str, flow: Flow) -> bool:
    """By the rules of networking.k8s.io/v1: policies that select a pod add up; a pod that none selects is open."""
    policies = [item["spec"] for item in of_kind(mode, "NetworkPolicy").values()]
    return _side(policies, "Egress", flow.source, flow.destination, flow) and _side(
        policies, "Ingress", flow.destination, flow.source, flow
    )


def _side(policies: list[Object], way: str, pod: dict[str, str] | None, peer: dict[str, str] | None, flow: Flow) -> bool:
    selecting = [
        policy for policy in policies if way in policy["policyTypes"] and pod is not None and _fits(policy["podSelector"], pod)
    ]
    rules = [rule for policy in selecting for rule in policy.get(way.lower()) or []]
    return not selecting or any(_rule(rule, "to" if way == "Egress" else "from", peer, flow) for rule in rules)


def _rule(rule: Object, peers: str, peer: dict[str, str] | None, flow: Flow) -> bool:
    here = peers not in rule or any(peer is not None and _fits(item["podSelector"], peer) for item in rule[peers])
    ports = rule.get("ports")
    return here and (
        not ports or any((item["port"], item.get("protocol", "TCP")) == (flow.port, flow.protocol) for item in ports)
    )


def _fits(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
