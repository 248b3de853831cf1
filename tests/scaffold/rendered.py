"""What kubectl makes of deploy/, for tests: objects by kind and name, and which connections the network policies admit."""

import functools
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from deploy import project
from deploy.kubectl import Kubectl
from deploy.manifests import render
from deploy.site import FOLDER, Site

NEEDS_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl on PATH, and no cluster: https://kubernetes.io/docs/tasks/tools"
)
MODES = sorted(path.name for path in (FOLDER / "overlays").iterdir())
BESIDE = ("autoscale", "mtls", "zones")
"""Components that fit every mode."""

Object = dict[str, Any]


@functools.cache
def objects(mode: str, *components: str, image: str = "registry.example.com/pair:1") -> tuple[Object, ...]:
    """All objects of a mode, as `make manifests` prints them."""
    site = Site.of({"DISCOVERY": mode, "COMPONENTS": " ".join(components)})
    return tuple(yaml.safe_load_all(render(Kubectl(), site, image)))


def of_kind(mode: str, kind: str, *components: str) -> dict[str, Object]:
    """By name."""
    return {item["metadata"]["name"]: item for item in objects(mode, *components) if item["kind"] == kind}


def pods(mode: str, *components: str) -> dict[str, Object]:
    """The pod templates, by the name of what makes them."""
    makers = {**of_kind(mode, "Deployment", *components), **of_kind(mode, "StatefulSet", *components)}
    return {name: item["spec"]["template"] for name, item in makers.items()}


def environment(mode: str, role: str, *components: str) -> dict[str, str]:
    """What the role's container is given; what only a running pod knows is an example."""
    container = pods(mode, *components)[f"{project.SLUG}-{role}"]["spec"]["containers"][0]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= of_kind(mode, "ConfigMap", *components)[source["configMapRef"]["name"]]["data"]
    examples = {"status.podIP": "10.1.2.3", "metadata.namespace": "team"}
    for entry in container.get("env", []):
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        value = entry["value"] if "value" in entry else examples.get(field, "")
        found[entry["name"]] = value.replace("$(POD_NAMESPACE)", examples["metadata.namespace"])
    return found


@dataclass(frozen=True)
class Flow:
    """One connection: between pods by their labels, None for what is no pod of the namespace."""

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
