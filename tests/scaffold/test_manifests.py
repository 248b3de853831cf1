"""deploy/, rendered by kubectl without a cluster: every overlay, with and without the components that fit it."""

import copy
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from discovery.target import parse
from tests.bake import SLUG, bake

from .rendered import (
    COMPONENTS,
    CUSTOM,
    ENDPOINT_SLICES,
    NEEDS_KUBECTL,
    OVERLAYS,
    PART_OF,
    PREFIX,
    Flow,
    Object,
    Pod,
    admitted,
    environment,
    kustomization,
    kustomize,
    objects,
    of_kind,
    on_top,
    pods,
    project,
    seconds,
    settings,
    text,
)

pytestmark = NEEDS_KUBECTL

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
"""Of Kubernetes: from the oldest that is supported to the newest whose schemas are here."""

SERVER, LOADGEN, CLIENT, ETCD = (f"{SLUG}-{role}" for role in ("server", "load-generator", "client", "etcd"))
ROLES = {SERVER: "server", LOADGEN: "load-generator"}
LABEL = "app.kubernetes.io/"
COMBINATIONS = list(itertools.product(OVERLAYS, [(), COMPONENTS]))

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
with_and_without_components = pytest.mark.parametrize(
    ("overlay", "components"),
    COMBINATIONS,
    ids=[f"{overlay}-{'all' if components else 'alone'}" for overlay, components in COMBINATIONS],
)


@pytest.mark.parametrize("version", VERSIONS)
@with_and_without_components
def test_every_object_fits_the_schema(overlay: str, components: tuple[str, ...], version: str) -> None:
    """Of every supported version of Kubernetes; a field that is none is a mistake."""
    for item in objects(overlay, *components):
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)


@with_and_without_components
def test_everything_has_the_recommended_labels(overlay: str, components: tuple[str, ...]) -> None:
    """Objects and pods; etcd's pods have no version, so that a release of the project does not restart etcd."""
    found = objects(overlay, *components)
    templates = list(pods(overlay, *components).values())
    for item in [*found, *templates]:
        labels = {name.removeprefix(LABEL): value for name, value in item["metadata"]["labels"].items() if name.startswith(LABEL)}
        assert labels["component"] in ("server", "client", "etcd") or item["kind"] in (
            "ConfigMap",
            "PrometheusRule",
            "NetworkPolicy",
        )
        assert labels["name"].startswith(f"{SLUG}-")
        assert (labels["instance"], labels["part-of"], labels["managed-by"]) == (SLUG, SLUG, "kustomize")
        assert labels.get("version") or labels["component"] == "etcd", item["metadata"]
    for template in templates:
        assert ("version" in str(template["metadata"])) is (template["metadata"]["labels"][f"{LABEL}component"] != "etcd")
    for item in found:
        assert item["metadata"]["name"].startswith(f"{SLUG}-"), "two projects can share a namespace"


@every_overlay
def test_the_overlays_own_label_is_on_objects_only(overlay: str) -> None:
    """By it `make deploy` finds what runs; on pods or in a selector a change of mode would restart, or lose, all of them."""
    label, found = f"{SLUG}/overlay", copy.deepcopy(objects(overlay))
    for item in found:
        assert item["metadata"]["labels"].pop(label) == overlay
    assert label not in json.dumps(found)


@with_and_without_components
def test_every_selector_selects_the_projects_own_pods_only(overlay: str, components: tuple[str, ...]) -> None:
    """By project; and each selects at least one. Selectors hold nothing that a release changes: a Deployment's cannot be."""
    labels = [pod["metadata"]["labels"] for pod in pods(overlay, *components).values()]
    for kind, field in (
        ("Service", ["selector"]),
        ("Deployment", ["selector", "matchLabels"]),
        ("StatefulSet", ["selector", "matchLabels"]),
        ("PodDisruptionBudget", ["selector", "matchLabels"]),
        ("NetworkPolicy", ["podSelector", "matchLabels"]),
    ):
        for item in of_kind(overlay, kind, *components).values():
            selector = item["spec"]
            for name in field:
                selector = selector[name]
            assert selector[PART_OF] == SLUG
            assert selector.keys() <= {PART_OF, f"{LABEL}name", f"{LABEL}component"}
            assert [found for found in labels if selector.items() <= found.items()]


@with_and_without_components
def test_what_is_not_the_projects_to_make_is_not_there(overlay: str, components: tuple[str, ...]) -> None:
    """No namespace, no secret, nothing for the whole cluster; no ConfigMap of settings, which an undone rollout would miss."""
    for item in objects(overlay, *components):
        assert item["kind"] not in ("Namespace", "Secret", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")
        assert "namespace" not in item["metadata"]
        assert item["kind"] != "ConfigMap" or "grafana_dashboard" in item["metadata"]["labels"]
    for pod in pods(overlay, *components).values():
        assert "configMap" not in json.dumps(pod)


@with_and_without_components
def test_every_pod_is_as_safe_as_it_can_be(overlay: str, components: tuple[str, ...]) -> None:
    """A root that cannot be written to, a user that is not root, no look into each other's processes, all resources counted."""
    for pod in pods(overlay, *components).values():
        spec = pod["spec"]
        assert spec["enableServiceLinks"] is False
        assert not spec.keys() & {"shareProcessNamespace", "hostPID", "hostNetwork", "hostIPC"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {"emptyDir", "secret"}
        assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
            assert container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}


def entries(overlay: str, *components: str) -> Iterator[list[Object]]:
    """The environment of each container."""
    for pod in pods(overlay, *components).values():
        for container in pod["spec"]["containers"]:
            yield container["env"]


@with_and_without_components
def test_no_variable_is_there_twice_and_each_follows_what_it_refers_to(overlay: str, components: tuple[str, ...]) -> None:
    """$(NAME) is replaced only by what comes before; and server-side apply refuses a name that is there twice."""
    for variables in entries(overlay, *components):
        before = list[str]()
        for entry in variables:
            for name in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
                assert name in before, f"{entry['name']} refers to {name}"
            assert entry["name"] not in before
            before.append(entry["name"])


@every_overlay
@pytest.mark.parametrize("role", ROLES.values())
def test_every_variable_is_a_setting(overlay: str, role: str) -> None:
    """The program refuses a name with its prefix that is none, in every overlay and with every component."""
    for components in ((), COMPONENTS):
        assert settings(overlay, role, *components)["LOG__FORMAT"] == "json"


@every_overlay
def test_the_pods_have_the_time_that_a_drain_takes(overlay: str) -> None:
    """What the settings count with is what Kubernetes gives; the settings refuse what does not fit into it."""
    given = settings(overlay, "server")
    spec = pods(overlay)[SERVER]["spec"]
    assert spec["terminationGracePeriodSeconds"] == seconds(given["SERVER__DRAIN__TERMINATION_GRACE"])
    assert "lifecycle" not in spec["containers"][0]  # it would count against the same time
    timeout = seconds(settings(overlay, "load-generator")["CLIENT__TIMEOUT"])
    assert pods(overlay)[LOADGEN]["spec"]["terminationGracePeriodSeconds"] >= timeout + 5


@every_overlay
def test_the_server_has_its_memory_limit(overlay: str) -> None:
    """By the downward API, so that the settings refuse requests in flight that do not fit."""
    limit = pods(overlay)[SERVER]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert settings(overlay, "server")["SERVER__MEMORY_LIMIT"] == str(int(limit.removesuffix("Mi")) * 2**20)


@every_overlay
def test_the_target_leads_to_what_is_there(overlay: str) -> None:
    """A Service with that port, or the name under which the servers register."""
    client, server = settings(overlay, "load-generator"), settings(overlay, "server")
    target = parse(client["CLIENT__TARGET"])
    services = of_kind(overlay, "Service")
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
    assert (spec.get("clusterIP") == "None") is (overlay in ("dns", "native-dns"))
    assert (port or target.port) in (str(spec["ports"][0]["port"]), spec["ports"][0]["name"])


@pytest.mark.parametrize("discovery", ["kubernetes", "dns", "etcd"])
def test_the_default_mode_is_the_one_that_the_code_defaults_to(tmp_path: Path, discovery: str) -> None:
    """The program without a setting, and the overlay that is deployed without a choice, by the answer to cookiecutter's question."""
    made = bake(tmp_path, discovery=discovery)
    [target] = re.findall(r'^TARGET = "(.*)"', (made / "src" / SLUG / "defaults.py").read_text(), re.MULTILINE)
    assert f'or "{discovery}"' in (made / "deploy" / "deploy.py").read_text()
    assert f"value: {target}\n" in text(made / "deploy" / "overlays" / discovery)


def patience(probe: dict[str, Any]) -> int:
    """Seconds until it counts as failed."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@every_overlay
def test_the_probes_ask_the_ports_of_the_settings_and_only_liveness_is_patient(overlay: str) -> None:
    """A registry that is down, or a drain, must not restart a pod: liveness asks for a name that says neither."""
    server = settings(overlay, "server")
    served = {int(server["SERVER__PORT"])} | (
        {int(server["SERVER__HEALTH_PORT"])} if server["SERVER__HEALTH_PORT"] != "none" else set()
    )
    ports = {SERVER: served, LOADGEN: {int(settings(overlay, "load-generator")["CLIENT__HEALTH_PORT"])}}
    for name, expected in ports.items():
        container = pods(overlay)[name]["spec"]["containers"][0]
        startup, ready, alive = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        assert {port["containerPort"] for port in container["ports"]} == expected
        # With TLS a server has a port for the kubelet, which knows no TLS: the last one.
        assert {startup["grpc"]["port"], ready["grpc"]["port"], alive["grpc"]["port"]} == {max(expected)}
        assert (alive["grpc"]["service"], ready["grpc"].get("service", "")) == ("liveness", "")
        assert patience(ready) <= 10 < patience(startup) <= patience(alive)


def asks_the_api(overlay: str) -> bool:
    """Whether its clients watch EndpointSlices."""
    return settings(overlay, "load-generator")["CLIENT__TARGET"].startswith("kubernetes:")


@every_overlay
def test_only_the_kubernetes_mode_may_ask_the_api_and_only_for_slices(overlay: str) -> None:
    """The least that it needs; nobody else even has a token."""
    roles = of_kind(overlay, "Role")
    tokens = {name for name, pod in pods(overlay).items() if pod["spec"].get("automountServiceAccountToken") is not False}
    if asks_the_api(overlay):
        assert {name: role["rules"] for name, role in roles.items()} == {CLIENT: ENDPOINT_SLICES}
        assert tokens == {LOADGEN}
        [subject] = of_kind(overlay, "RoleBinding")[CLIENT]["subjects"]
        assert subject["name"] == pods(overlay)[LOADGEN]["spec"]["serviceAccountName"] == CLIENT
    else:
        assert (roles, tokens) == ({}, set())


API, ETCD_OUTSIDE, INTERNET = "10.96.0.1", "192.0.2.10", "198.51.100.7"
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")


@every_overlay
def test_the_network_policies_admit_what_is_needed_and_no_stranger(overlay: str) -> None:
    """Judged here by their text: a cluster's network plug-in may not enforce them at all."""
    found = {name: Pod(pod["metadata"]["labels"]) for name, pod in pods(overlay).items()}
    server, client, stranger = found[SERVER], found[LOADGEN], Pod({f"{LABEL}name": "stranger"})
    elsewhere = Pod(client.labels, "elsewhere")
    needed = [Flow(client, server, 50051), *(Flow(pod, DNS, 53, way) for pod in (server, client) for way in ("UDP", "TCP"))]
    if asks_the_api(overlay):
        needed += [Flow(client, API, 6443), Flow(client, API, 443)]
    if overlay.startswith("etcd"):
        needed += [Flow(pod, found.get(ETCD, ETCD_OUTSIDE), 2379) for pod in (server, client)]
    for flow in needed:
        assert admitted(overlay, flow), flow
    for flow in (
        Flow(stranger, server, 50051),
        Flow(elsewhere, server, 50051),
        Flow(server, server, 50051),
        Flow(client, Pod(server.labels, "elsewhere"), 50051),
        Flow(client, stranger, 8080),
        Flow(stranger, client, 50052),
        Flow(client, server, 22),
        *(
            Flow(pod, to, port, way)
            for pod in found.values()
            for to in (INTERNET, stranger)
            for port, way in ((53, "UDP"), (4318, "TCP"))
        ),
        *(Flow(pod, INTERNET, port) for pod in found.values() for port in (443, 2379, 6443, 50051)),
        *(Flow(pod, Pod({"k8s-app": "kube-dns"}), 53, "UDP") for pod in found.values()),
        *(Flow(pod, Pod({}, "kube-system"), 53, "UDP") for pod in found.values()),
    ):
        assert not admitted(overlay, flow), flow
    assert admitted(overlay, Flow(client, API, 6443)) is asks_the_api(overlay)
    assert not admitted(overlay, Flow(server, API, 6443))
    if ETCD in found:
        assert not admitted(overlay, Flow(stranger, found[ETCD], 2379))
        assert not admitted(overlay, Flow(found[ETCD], DNS, 53, "UDP"))


@with_and_without_components
def test_every_rule_of_a_network_policy_names_peers_and_ports(overlay: str, components: tuple[str, ...]) -> None:
    """A rule without them admits everything; port 53 is for the cluster's DNS alone."""
    for item in of_kind(overlay, "NetworkPolicy", *components).values():
        for way, side in (("egress", "to"), ("ingress", "from")):
            for rule in item["spec"].get(way, []):
                assert rule["ports"]
                assert rule[side]
                for peer in rule[side]:
                    assert peer.get("ipBlock", {}).get("cidr") not in ("0.0.0.0/0", "::/0")
                    assert "ipBlock" in peer or peer["podSelector"].get("matchLabels")
                ports = {port["port"] for port in rule["ports"]}
                assert ports == {53} or 53 not in ports
                if ports == {53}:
                    assert [peer["podSelector"]["matchLabels"] for peer in rule[side]] == [DNS.labels]
                    assert [peer["namespaceSelector"]["matchLabels"] for peer in rule[side]] == [
                        {"kubernetes.io/metadata.name": DNS.namespace}
                    ]


@every_overlay
def test_every_pods_egress_is_limited(overlay: str) -> None:
    """By at least one policy; a pod that none selects may connect to anything."""
    for pod in pods(overlay).values():
        assert not admitted(overlay, Flow(Pod(pod["metadata"]["labels"]), INTERNET, 443))


def test_a_gateway_reaches_the_projects_service_and_nothing_else(tmp_path: Path) -> None:
    """With the component: its pods by label and namespace, and the service of the proto file."""
    gateway = Pod({"gateway.networking.k8s.io/gateway-name": "gateway"}, "gateways")
    server = Pod(pods("dns")[SERVER]["metadata"]["labels"])
    assert admitted("dns", Flow(gateway, server, 50051), "grpc-route")
    for flow in (
        Flow(Pod({}, "gateways"), server, 50051),
        Flow(Pod(gateway.labels), server, 50051),
        Flow(gateway, server, 22),
    ):
        assert not admitted("dns", flow, "grpc-route"), flow
    assert not admitted("dns", Flow(gateway, server, 50051))
    made = bake(tmp_path, project_name="Two Words", discovery="dns")
    [proto] = (made / "proto").rglob("*.proto")
    [package] = re.findall(r"^package (.*);", proto.read_text(), re.MULTILINE)
    services = re.findall(r"^service (\w+)", proto.read_text(), re.MULTILINE)
    found = kustomize(on_top(made / "deploy", "dns", components=["grpc-route"]))
    [route] = [item for item in found if item["kind"] == "GRPCRoute"]
    matches = [match["method"]["service"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert matches == [f"{package}.{service}" for service in services]


@every_overlay
def test_services_say_that_their_port_speaks_http2_without_tls(overlay: str) -> None:
    """For meshes, gateways and load balancers."""
    ports = {name: [port["port"] for port in item["spec"]["ports"]] for name, item in of_kind(overlay, "Service").items()}
    assert ports == {SERVER: [50051], f"{SERVER}-headless": [50051]} | ({ETCD: [2379]} if overlay == "etcd" else {})
    for item in of_kind(overlay, "Service").values():
        assert item["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


def test_every_pod_has_its_zone_and_servers_are_spread_over_them() -> None:
    """With the component; and what calls the Service's address prefers its zone, too."""
    for role in ROLES.values():
        [zone] = [
            entry
            for entry in pods("dns", "zones")[f"{SLUG}-{role}"]["spec"]["containers"][0]["env"]
            if entry["name"] == f"{PREFIX}DISCOVERY__ZONE"
        ]
        assert zone["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['topology.kubernetes.io/zone']"
    spread = pods("dns", "zones")[SERVER]["spec"]["topologySpreadConstraints"]
    assert {item["topologyKey"] for item in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    labels = pods("dns", "zones")[SERVER]["metadata"]["labels"]
    assert all(item["labelSelector"]["matchLabels"].items() <= labels.items() for item in spread)
    assert of_kind("dns", "Service", "zones")[SERVER]["spec"]["trafficDistribution"]


@with_and_without_components
def test_only_a_deployment_without_an_autoscaler_has_a_number_of_replicas(overlay: str, components: tuple[str, ...]) -> None:
    """A manifest that named it, too, would undo what the autoscaler does."""
    scaled = {
        item["spec"]["scaleTargetRef"]["name"] for item in of_kind(overlay, "HorizontalPodAutoscaler", *components).values()
    }
    assert scaled == ({SERVER} if components or overlay == "production" else set())
    for name, item in of_kind(overlay, "Deployment", *components).items():
        assert ("replicas" in item["spec"]) is (name not in scaled)


@every_overlay
def test_a_rollout_takes_no_server_before_its_successor_is_known(overlay: str) -> None:
    """With DNS, old servers stay as long as its answers may be old: 30 s in CoreDNS, and what the client adds."""
    spec = of_kind(overlay, "Deployment")[SERVER]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec.get("minReadySeconds", 0) >= {"dns": 35, "native-dns": 35}.get(overlay, 0)


def copied(folder: Path) -> Path:
    """deploy/ of the project, to edit."""
    return shutil.copytree(project() / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_overlay_may_list_a_component(tmp_path: Path, component: str) -> None:
    """As a line of its own, before the overlay's patches: none of them depends on what else is there."""
    deploy = shutil.copytree(project() / "deploy", tmp_path / "deploy")
    for overlay in OVERLAYS:
        place, line = deploy / "overlays" / overlay / "kustomization.yaml", f"  - ../../components/{component}\n"
        before = place.read_text()
        if line not in before:
            place.write_text(before.replace("components:\n", f"components:\n{line}"))
        assert kustomize(place.parent)
        place.write_text(before)  # production is on top of another one


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "production"])
def test_the_image_is_named_in_one_place(tmp_path: Path, overlay: str) -> None:
    """newName and newTag there change the image of all pods of the pair, and nothing else."""
    deploy = copied(tmp_path)
    before = text(deploy / "overlays" / overlay).splitlines()
    place = deploy / "components" / "image" / "kustomization.yaml"
    edited = re.sub(r"newName: \S+", "newName: registry.example.com/team/other", place.read_text())
    place.write_text(re.sub(r"newTag: \S+", "newTag: v7", edited))
    after = text(deploy / "overlays" / overlay).splitlines()
    changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [(f"image: localhost/{SLUG}:latest", "image: registry.example.com/team/other:v7")] * len(ROLES)


def test_production_is_what_it_says() -> None:
    """An image by digest, TLS on both sides with a Secret for each, an autoscaler, zones; and the rest as in kubernetes."""
    for name, role in ROLES.items():
        pod, given = pods("production")[name], settings("production", role)
        [container] = pod["spec"]["containers"]
        assert re.fullmatch(rf"registry\.example\.com/team/{SLUG}@sha256:[0-9a-f]{{64}}", container["image"])
        assert given["TLS__MODE"] == "mtls"
        side = pod["metadata"]["labels"][f"{LABEL}component"]
        [secret] = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        assert secret == {"secretName": f"{SLUG}-{side}-tls", "defaultMode": 0o440}
        assert f"{PREFIX}DISCOVERY__ZONE" in environment("production", role)
    assert (
        settings("production", "load-generator")["CLIENT__TARGET"] == settings("kubernetes", "load-generator")["CLIENT__TARGET"]
    )
    versions = {item["metadata"]["labels"][f"{LABEL}version"] for item in objects("production")}
    assert len(versions) == 1


@every_overlay
def test_an_overlay_on_top_may_set_the_namespace(tmp_path: Path, overlay: str) -> None:
    """Every object is there then, and what names an account names it there."""
    for item in kustomize(on_top(copied(tmp_path), overlay, namespace="team")):
        assert item["metadata"]["namespace"] == "team"
        for subject in item.get("subjects", []):
            assert subject["namespace"] == "team"
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, VERSIONS[-1], strict=True)


@every_overlay
def test_an_overlay_sends_only_fields_that_it_means(overlay: str) -> None:
    """Nothing that a controller or the API server writes; a tool that compares would never be done."""
    for item in objects(overlay):
        assert item.keys() <= {
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "rules",
            "roleRef",
            "subjects",
            "automountServiceAccountToken",
        }
        assert item["metadata"].keys() <= {"name", "labels"}


def test_every_file_is_used() -> None:
    """Every folder by an overlay, but for the components that an owner adds by a line."""
    deploy, used = project() / "deploy", set[Path]()
    waiting = [deploy / "overlays" / name for name in OVERLAYS] + [deploy / "components" / name for name in COMPONENTS]
    while waiting:
        folder = waiting.pop()
        content = kustomization(folder)
        used.add(folder / "kustomization.yaml")
        for entry in [*content.get("resources", []), *content.get("components", [])]:
            path = (folder / entry).resolve()
            (waiting if path.is_dir() else []).append(path)
            used |= set() if path.is_dir() else {path}
    assert {path for path in deploy.rglob("*.yaml")} - {path.resolve() for path in used} - used == set()
    assert all(yaml.safe_load_all(path.read_text()) for path in used)
