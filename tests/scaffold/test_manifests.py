"""deploy/, rendered by kubectl without a cluster: every overlay, with and without the components that fit it."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from discovery.target import parse
from tests.bake import SLUG, bake

from .rendered import (
    COMPONENTS,
    ENDPOINT_SLICES,
    MODES,
    NEEDS_KUBECTL,
    PREFIX,
    Flow,
    admitted,
    environment,
    make,
    objects,
    of_kind,
    pods,
    project,
    seconds,
    settings,
)

pytestmark = NEEDS_KUBECTL

VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes: the oldest that is supported, one between, the newest whose schemas are here."""

SERVER, CLIENT, ETCD = (f"{SLUG}-{role}" for role in ("server", "client", "etcd"))
PART_OF = "app.kubernetes.io/part-of"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("mode", "components"), list(itertools.product(MODES, [(), COMPONENTS])))
def test_every_object_fits_the_schema(mode: str, components: tuple[str, ...], version: str) -> None:
    """Of every supported version of Kubernetes; a field that is none is a mistake."""
    for item in objects(mode, *components):
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("mode", MODES)
def test_every_object_is_the_projects_by_name_and_label(mode: str) -> None:
    """So that two projects can share a namespace, and what undeploy deletes is all there is."""
    kinds = re.findall(r"[a-z]+", (project() / "deploy" / "rollout.py").read_text().partition("KINDS = (")[2].partition(")")[0])
    for item in objects(mode, *COMPONENTS):
        assert item["metadata"]["name"].startswith(f"{SLUG}-")
        assert item["metadata"]["labels"][PART_OF] == SLUG
        assert re.sub("y$", "ie", item["kind"].lower()) + "s" in kinds, f"{item['kind']} is not in rollout.KINDS"


@pytest.mark.parametrize("mode", MODES)
def test_every_selector_selects_the_projects_own_pods_only(mode: str) -> None:
    """By name and project; and each selects at least one."""
    labels = [pod["metadata"]["labels"] for pod in pods(mode).values()]
    selectors = [item["spec"]["selector"] for item in of_kind(mode, "Service").values()]
    selectors += [
        item["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget")
        for item in of_kind(mode, kind).values()
    ]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(mode, "NetworkPolicy").values()]
    for selector in selectors:
        assert selector[PART_OF] == SLUG
        assert [found for found in labels if selector.items() <= found.items()]


@pytest.mark.parametrize("mode", MODES)
def test_the_pods_have_the_time_that_a_drain_takes(mode: str) -> None:
    """What the settings count with is what Kubernetes gives; the settings refuse what does not fit into it."""
    given = settings(mode, "server")
    spec = pods(mode)[SERVER]["spec"]
    assert spec["terminationGracePeriodSeconds"] == seconds(given["SERVER__DRAIN__TERMINATION_GRACE"])
    assert "lifecycle" not in spec["containers"][0]  # it would count against the same time
    assert pods(mode)[CLIENT]["spec"]["terminationGracePeriodSeconds"] >= seconds(settings(mode, "client")["CLIENT__TIMEOUT"]) + 5


@pytest.mark.parametrize("mode", MODES)
def test_the_server_has_its_memory_limit(mode: str) -> None:
    """By the downward API, so that the settings refuse requests in flight that do not fit."""
    limit = pods(mode)[SERVER]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert settings(mode, "server")["SERVER__MEMORY_LIMIT"] == str(int(limit.removesuffix("Mi")) * 2**20)


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("mode", MODES)
def test_every_variable_is_a_setting(mode: str, role: str) -> None:
    """The program refuses a name with its prefix that is none."""
    assert settings(mode, role, "zones")["LOG__FORMAT"] == "json"


def test_every_variable_of_mtls_is_a_setting() -> None:
    """Its files are not here, so only the names are compared."""
    for role in ("server", "client"):
        names = {name.removeprefix(PREFIX) for name in environment(MODES[0], role, "mtls") if name.startswith(PREFIX)}
        assert {"TLS__MODE", "TLS__CERTIFICATE", "TLS__KEY", "TLS__CA"} <= names <= settings(MODES[0], role).keys()


@pytest.mark.parametrize("mode", MODES)
def test_the_target_leads_to_what_is_there(mode: str) -> None:
    """A Service with that port, or the name under which the servers register."""
    client, server = settings(mode, "client"), settings(mode, "server")
    target = parse(client["CLIENT__TARGET"])
    services = of_kind(mode, "Service")
    if target.scheme == "etcd":
        assert server["REGISTRATION__TARGET"] == client["CLIENT__TARGET"]
        assert server["REGISTRATION__ADDRESS"]
        for name in ("DISCOVERY__ETCD__ENDPOINTS", "DISCOVERY__ETCD__CA"):
            assert server[name] == client[name]
        for endpoint in json.loads(server["DISCOVERY__ETCD__ENDPOINTS"]) if ETCD in services else ():
            host, _, port = endpoint.partition(":")
            assert services[host]["spec"]["ports"][0]["port"] == int(port)
        return
    assert server["REGISTRATION__TARGET"] == "none"
    name, _, port = target.name.partition(":")
    spec = services[name]["spec"]
    assert (spec.get("clusterIP") == "None") is (mode in ("dns", "native-dns"))
    assert (port or target.port) in (str(spec["ports"][0]["port"]), spec["ports"][0]["name"])


@pytest.mark.parametrize("discovery", ["kubernetes", "dns", "etcd"])
def test_the_default_mode_is_the_one_that_the_code_defaults_to(tmp_path: Path, discovery: str) -> None:
    """The program without a setting, and the overlay that is deployed without a choice, by the answer to cookiecutter's question."""
    made = bake(tmp_path, discovery=discovery)
    [target] = re.findall(r'^TARGET = "(.*)"', (made / "src" / SLUG / "defaults.py").read_text(), re.MULTILINE)
    assert f"{PREFIX}CLIENT__TARGET: {target}\n" in make(made, "manifests")


@pytest.mark.parametrize("mode", MODES)
def test_every_pod_fits_the_restricted_standard(mode: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, and a root that cannot be written to."""
    for pod in pods(mode, *COMPONENTS).values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {"emptyDir", "secret"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def patience(probe: dict[str, Any]) -> int:
    """Seconds until it counts as failed."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.parametrize("mode", MODES)
def test_the_probes_ask_the_ports_of_the_settings_and_only_liveness_is_patient(mode: str) -> None:
    """A registry that is down, or a drain, must not restart a pod: liveness asks for a name that says neither."""
    ports = {
        SERVER: int(settings(mode, "server")["SERVER__PORT"]),
        CLIENT: int(settings(mode, "client")["CLIENT__HEALTH_PORT"]),
    }
    for name, port in ports.items():
        container = pods(mode)[name]["spec"]["containers"][0]
        startup, ready, alive = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        assert {
            startup["grpc"]["port"],
            ready["grpc"]["port"],
            alive["grpc"]["port"],
            container["ports"][0]["containerPort"],
        } == {port}
        assert (alive["grpc"]["service"], ready["grpc"].get("service", "")) == ("liveness", "")
        assert patience(ready) <= 10 < patience(startup) <= patience(alive)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_kubernetes_mode_may_ask_the_api_and_only_for_slices(mode: str) -> None:
    """The least that it needs; nobody else even has a token."""
    roles = of_kind(mode, "Role")
    tokens = {name for name, pod in pods(mode).items() if pod["spec"].get("automountServiceAccountToken") is not False}
    if mode == "kubernetes":
        assert roles[CLIENT]["rules"] == ENDPOINT_SLICES
        assert tokens == {CLIENT}
    else:
        assert (roles, tokens) == ({}, set())
    assert not of_kind(mode, "ClusterRole")


@pytest.mark.parametrize("mode", MODES)
def test_the_network_policies_admit_what_is_needed_and_no_stranger(mode: str) -> None:
    """Judged here by their text: a cluster's network plug-in may not enforce them at all."""
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(mode).items()}
    server, client, stranger = labels[SERVER], labels[CLIENT], {"app.kubernetes.io/name": "stranger"}
    needed = [Flow(client, server, 50051), *(Flow(pod, None, 53, "UDP") for pod in (server, client)), Flow(client, None, 4318)]
    if mode == "kubernetes":
        needed += [Flow(client, None, 6443), Flow(client, None, 443)]
    if mode.startswith("etcd"):
        needed += [Flow(pod, labels.get(ETCD), 2379) for pod in (server, client)]
    for flow in needed:
        assert admitted(mode, flow), flow
    for flow in (
        Flow(stranger, server, 50051),
        Flow(client, stranger, 8080),
        Flow(stranger, client, 50052),
        Flow(client, server, 22),
    ):
        assert not admitted(mode, flow), flow
    assert admitted(mode, Flow(client, None, 6443)) is (mode == "kubernetes")
    assert not (ETCD in labels and admitted(mode, Flow(stranger, labels[ETCD], 2379)))


@pytest.mark.parametrize("mode", MODES)
def test_settings_have_names_that_change_with_them(mode: str) -> None:
    """So a change rolls the pods, and the pods that still run keep theirs."""
    used = {
        source["configMapRef"]["name"]
        for pod in pods(mode).values()
        for source in pod["spec"]["containers"][0].get("envFrom", [])
    }
    assert used == of_kind(mode, "ConfigMap").keys()
    for name in used:
        base, _, content = name.rpartition("-")
        assert base in (SERVER, CLIENT)
        assert re.fullmatch("[a-z0-9]{10}", content)


def test_every_pod_knows_its_zone_and_servers_are_spread_over_them() -> None:
    """With the component."""
    for role in ("server", "client"):
        [zone] = [
            entry
            for entry in pods(MODES[0], "zones")[f"{SLUG}-{role}"]["spec"]["containers"][0]["env"]
            if entry["name"] == f"{PREFIX}DISCOVERY__ZONE"
        ]
        assert zone["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['topology.kubernetes.io/zone']"
    constraints = pods(MODES[0], "zones")[SERVER]["spec"]["topologySpreadConstraints"]
    assert {item["topologyKey"] for item in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


def test_an_autoscaler_owns_the_number_of_servers() -> None:
    """A manifest that named it, too, would undo what it does."""
    scaler = of_kind(MODES[0], "HorizontalPodAutoscaler", "autoscale")[SERVER]
    assert scaler["spec"]["scaleTargetRef"]["name"] == SERVER
    assert "replicas" not in of_kind(MODES[0], "Deployment", "autoscale")[SERVER]["spec"]


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_takes_no_server_before_its_successor_is_known(mode: str) -> None:
    """With DNS, old servers stay as long as its answers may be old: 30 s in CoreDNS, and what the client adds."""
    spec = of_kind(mode, "Deployment")[SERVER]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec.get("minReadySeconds", 0) >= {"dns": 35, "native-dns": 63}.get(mode, 0)
