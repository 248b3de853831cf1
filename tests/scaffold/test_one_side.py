"""deploy/ in a repository of the server only or of a client only, without the load generator, or whose server calls others."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bake import SLUG

from .rendered import ENDPOINT_SLICES, NEEDS_KUBECTL, OVERLAYS, PREFIX, Object, kustomize, project

pytestmark = NEEDS_KUBECTL

SERVER, CLIENT, LOADGEN, ETCD = (f"{SLUG}-{role}" for role in ("server", "client", "load-generator", "etcd"))
SERVER_LINES = ["../../server", "../../components/autoscale"]
CLIENT_LINES = ["../../client", "../../components/rbac-client"]
LOADGEN_LINES = ["../../load-generator"]


def without(folder: Path, lines: Sequence[str]) -> Path:
    """The project's deploy/ less these folders and their lines in each overlay, as docs/your-own-service.md says."""
    deploy = shutil.copytree(project() / "deploy", folder / "deploy")
    for line in lines:
        if "components" not in line:
            shutil.rmtree(deploy / Path(line).name)
    for path in deploy.glob("overlays/*/kustomization.yaml"):
        kept = [each for each in path.read_text().splitlines() if each.partition("#")[0].strip().removeprefix("- ") not in lines]
        path.write_text("\n".join(kept) + "\n")
    return deploy


def rendered(deploy: Path, overlay: str) -> dict[tuple[str, str], Object]:
    """By kind and name."""
    return {(item["kind"], item["metadata"]["name"]): item for item in kustomize(deploy / "overlays" / overlay)}


def names(found: dict[tuple[str, str], Object], *kinds: str) -> set[str]:
    """Of objects of these kinds."""
    return {name for kind, name in found if kind in kinds}


def own_deployment() -> Object:
    """A caller of the server with a program and an image of its own."""
    container: Object = {"name": "app", "image": "registry.example.com/app:1", "env": [], "volumeMounts": []}
    spec = {"serviceAccountName": CLIENT, "containers": [container], "volumes": []}
    labels = {"app.kubernetes.io/name": CLIENT, "app.kubernetes.io/part-of": SLUG}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{SLUG}-app"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"spec": {**spec, "automountServiceAccountToken": False}}},
    }


def own_client(deploy: Path) -> None:
    """Its file in deploy/client, and a line for it."""
    (deploy / "client" / "app.yaml").write_text(yaml.safe_dump(own_deployment()))
    place = deploy / "client" / "kustomization.yaml"
    place.write_text(place.read_text().replace("  - account.yaml\n", "  - account.yaml\n  - app.yaml\n"))


def others(overlay: str, component: str) -> dict[tuple[str, str], Object]:
    """What the whole project renders, less one component's objects."""
    found = rendered(project() / "deploy", overlay)
    return {key: item for key, item in found.items() if item["metadata"]["labels"]["app.kubernetes.io/component"] != component}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_repository_of_the_server_has_nothing_of_a_client(tmp_path: Path, overlay: str) -> None:
    """Two folders and their lines are deleted; everything else renders as before."""
    found = rendered(without(tmp_path, [*CLIENT_LINES, *LOADGEN_LINES]), overlay)
    assert names(found, "Deployment", "ServiceAccount") == {SERVER}
    assert names(found, "Role", "RoleBinding") == set()
    assert found == others(overlay, "client")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_repository_of_a_client_has_nothing_of_the_server(tmp_path: Path, overlay: str) -> None:
    """The server is another repository's."""
    found = rendered(without(tmp_path, SERVER_LINES), overlay)
    assert names(found, "Deployment") == {LOADGEN}
    assert names(found, "ServiceAccount") == {CLIENT}
    assert names(found, "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "StatefulSet") <= {ETCD}
    assert found == others(overlay, "server")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_the_load_generator_the_rest_is_as_before(tmp_path: Path, overlay: str) -> None:
    """The client's account, rights and network policy stay for a client that comes later."""
    found = rendered(without(tmp_path, LOADGEN_LINES), overlay)
    before = rendered(project() / "deploy", overlay)
    assert found == {key: item for key, item in before.items() if key != ("Deployment", LOADGEN)}


def variables(deployment: Object) -> dict[str, Any]:
    """The first container's environment."""
    [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize("removed", [LOADGEN_LINES, [*SERVER_LINES, *LOADGEN_LINES]], ids=["pair", "client-only"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_clients_own_deployment_gets_what_a_client_needs(tmp_path: Path, overlay: str, removed: Sequence[str]) -> None:
    """Target, certificate, zone and rights, whatever its name and image are; the policy of clients selects it."""
    before = variables(rendered(project() / "deploy", overlay)["Deployment", LOADGEN])
    deploy = without(tmp_path, removed)
    own_client(deploy)
    found = rendered(deploy, overlay)
    app = found["Deployment", f"{SLUG}-app"]
    given, pod = variables(app), app["spec"]["template"]
    added = (f"{PREFIX}CLIENT__TARGET", f"{PREFIX}TLS__", f"{PREFIX}DISCOVERY__")
    expected = {name: value for name, value in before.items() if name.startswith(added)}
    assert {name: value for name, value in given.items() if name.startswith(added)} == expected
    assert f"{PREFIX}CLIENT__TARGET" in given
    if overlay == "production":
        assert {f"{PREFIX}TLS__MODE", f"{PREFIX}DISCOVERY__ZONE"} <= given.keys()
        assert [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"]] == [f"{CLIENT}-tls"]
    assert pod["spec"]["containers"][0]["image"] == "registry.example.com/app:1"
    assert pod["spec"]["automountServiceAccountToken"] is (("Role", CLIENT) in found)
    selected = found["NetworkPolicy", CLIENT]["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= pod["metadata"]["labels"].items()


def test_a_server_that_calls_others_by_the_kubernetes_api_gets_its_rights_by_one_line(tmp_path: Path) -> None:
    """In every overlay; the client's own are as before."""
    deploy = shutil.copytree(project() / "deploy", tmp_path / "deploy")
    with (deploy / "server" / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../components/rbac-server\n")
    for overlay in OVERLAYS:
        found = rendered(deploy, overlay)
        callers = {SERVER, CLIENT} if overlay in ("kubernetes", "production") else {SERVER}
        assert names(found, "Role") == callers
        for name in callers:
            assert found["Role", name]["rules"] == ENDPOINT_SLICES
            [subject] = found["RoleBinding", name]["subjects"]
            assert (subject["name"], found["RoleBinding", name]["roleRef"]["name"]) == (name, name)
            selected = found["NetworkPolicy", f"{name}-to-api"]["spec"]["podSelector"]["matchLabels"]
            # A client of the owner's own has the label of a client, and a name of its own.
            key, value = ("name", SERVER) if name == SERVER else ("component", "client")
            assert selected == {f"app.kubernetes.io/{key}": value, "app.kubernetes.io/part-of": SLUG}
        for deployment, caller in ((SERVER, SERVER), (LOADGEN, CLIENT)):
            spec = found["Deployment", deployment]["spec"]["template"]["spec"]
            assert spec["automountServiceAccountToken"] is (caller in callers)
