"""What a real API server says to every overlay and component, and Pod Security admission to every pod; nothing is left behind."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bake import SLUG

from .rendered import COMPONENTS, CUSTOM, OVERLAYS, Object, folder_of, objects, pods, text

pytestmark = pytest.mark.cluster

NAMESPACE = "manifests-restricted"
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.4.1"
"""The Go module that holds the definitions of Gateway API's kinds."""


def kubectl(*arguments: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """In no namespace of its own."""
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


def manifests(items: list[Object]) -> str:
    """As kubectl reads them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.fixture(scope="module")
def restricted() -> Iterator[str]:
    """A namespace that admits only pods of the restricted Pod Security Standard, with the accounts that the pods name."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": level}}
    accounts = [item for item in objects("kubernetes") if item["kind"] == "ServiceAccount"]
    try:
        kubectl("create", "--filename=-", given=manifests([namespace]))
        kubectl("create", "--namespace", NAMESPACE, "--filename=-", given=manifests(accounts))
        yield NAMESPACE
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


def applied(namespace: str, given: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What the API server would do; unknown fields and fields that are there twice are errors."""
    command = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"]
    return kubectl("--namespace", namespace, *command, given=given, check=check)


@pytest.mark.parametrize("components", [(), COMPONENTS], ids=["alone", "all"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_server_accepts_every_overlay_without_a_warning(
    restricted: str, overlay: str, components: tuple[str, ...]
) -> None:
    """Neither of a field that is none or is deprecated, nor of pods that the namespace would not admit."""
    found = [item for item in objects(overlay, *components) if item["kind"] not in CUSTOM]
    done = applied(restricted, manifests(found))
    assert done.stderr == ""
    assert done.stdout.count("(server dry run)") == len(found)


def each_pod(overlay: str, *components: str) -> list[Object]:
    """Of each template of an overlay."""
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}
        for name, pod in pods(overlay, *components).items()
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_restricted_namespace_admits_every_pod(restricted: str, overlay: str) -> None:
    """With every component: https://kubernetes.io/docs/concepts/security/pod-security-standards."""
    found = each_pod(overlay, *COMPONENTS)
    done = kubectl("create", "--namespace", restricted, "--dry-run=server", "--filename=-", given=manifests(found))
    assert done.stdout.count("created (server dry run)") == len(found) >= 2


def test_a_restricted_namespace_refuses_a_pod_that_is_less_safe(restricted: str) -> None:
    """So admission does look at what is only tried."""
    shown = manifests(each_pod("dns")).replace('"allowPrivilegeEscalation": false', '"allowPrivilegeEscalation": true')
    done = kubectl("create", "--namespace", restricted, "--dry-run=server", "--filename=-", given=shown, check=False)
    assert "violates PodSecurity" in done.stderr
    shown = text(folder_of("dns")).replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    assert "would violate PodSecurity" in applied(restricted, shown).stderr


@pytest.fixture(scope="module")
def gateway_api() -> Iterator[dict[str, Any]]:
    """Gateway API's definition of a GRPCRoute; deleted afterwards, unless the cluster had it before."""
    name = "grpcroutes.gateway.networking.k8s.io"
    before = kubectl("get", "customresourcedefinition", name, "--output=json", check=False)
    if before.returncode == 0:
        yield json.loads(before.stdout)
        return
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        pytest.skip("needs Go, which downloads Gateway API's definitions: https://go.dev/dl")
    done = subprocess.run([go, "mod", "download", "-json", GATEWAY_API], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    file = Path(json.loads(done.stdout)["Dir"]) / "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"
    try:
        kubectl("create", "--filename", str(file))
        kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}", "--timeout=30s")
        yield yaml.safe_load(file.read_text())
    finally:
        kubectl("delete", "--filename", str(file), "--ignore-not-found")


@pytest.mark.parametrize("overlay", ["kubernetes", "production"])
def test_gateway_api_accepts_the_route(restricted: str, gateway_api: dict[str, Any], overlay: str) -> None:
    """Every field of it is known, and it leads to the server's Service and port."""
    [route] = [item for item in objects(overlay, "grpc-route") if item["kind"] == "GRPCRoute"]
    assert route["apiVersion"].partition("/")[2] in [each["name"] for each in gateway_api["spec"]["versions"] if each["served"]]
    assert applied(restricted, manifests([route])).stderr == ""
    [rule] = route["spec"]["rules"]
    [service] = [item for item in objects(overlay) if item["kind"] == "Service" and item["metadata"]["name"] == f"{SLUG}-server"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}]


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ({"backendRefs": [{"name": "x", "port": 1, "wieght": 1}]}, "wieght"),
        ({"matches": [{"method": {"service": "no/name"}}]}, "service must only contain valid characters"),
    ],
)
def test_gateway_api_refuses_a_route_with_a_mistake(
    restricted: str, gateway_api: dict[str, Any], mistake: Object, reason: str
) -> None:
    """So the definition does judge it: a field that is none, and a value that is no service's name."""
    [route] = [item for item in objects("kubernetes", "grpc-route") if item["kind"] == "GRPCRoute"]
    broken = {**route, "spec": {**route["spec"], "rules": [{**route["spec"]["rules"][0], **mistake}]}}
    done = applied(restricted, manifests([broken]), check=False)
    assert done.returncode != 0
    assert reason in done.stderr
