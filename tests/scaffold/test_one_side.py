"""deploy/ in a repository that is only the server's or only the client's, or whose server calls others; and how large it is."""

import shutil
from pathlib import Path

import pytest

from tests.bake import SLUG

from .rendered import ENDPOINT_SLICES, MODES, NEEDS_KUBECTL, kustomize, project

pytestmark = NEEDS_KUBECTL

SERVER, CLIENT = f"{SLUG}-server", f"{SLUG}-client"


def without(folder: Path, role: str) -> Path:
    """The project less one of the two, as docs/your-own-service.md says: its folder, and its line in each overlay."""
    made = shutil.copytree(project() / "deploy", folder / "deploy").parent
    shutil.rmtree(made / "deploy" / role)
    for path in made.glob("deploy/overlays/*/kustomization.yaml"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join(line for line in lines if line.strip() not in (f"- ../../{role}", f"- ../../components/rbac-{role}"))
        )
    return made


@pytest.mark.parametrize(("role", "other"), [("server", CLIENT), ("client", SERVER)])
def test_a_repository_of_one_side_only_deletes_a_folder_and_a_line_in_each_overlay(tmp_path: Path, role: str, other: str) -> None:
    """Everything else renders as before, without a reference to what is gone."""
    made = without(tmp_path, role)
    for mode in MODES:
        found = kustomize(made / "deploy" / "overlays" / mode)
        assert {item["metadata"]["name"] for item in found if item["kind"] == "Deployment"} == {other}, mode
        assert not [item for item in found if item["kind"] in ("ServiceAccount", "Role") and item["metadata"]["name"] != other], (
            mode
        )
    place = tmp_path / "environment"
    place.mkdir()
    lines = "resources: [../deploy/overlays/kubernetes]\ncomponents: [../deploy/components/mtls, ../deploy/components/zones]\n"
    (place / "kustomization.yaml").write_text(lines)
    assert kustomize(place)


def test_a_server_that_calls_others_by_the_kubernetes_api_gets_its_rights_by_one_line(tmp_path: Path) -> None:
    """In every mode; the client's own are as before."""
    made = shutil.copytree(project() / "deploy", tmp_path / "deploy").parent
    with (made / "deploy" / "server" / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../components/rbac-server\n")
    for mode in MODES:
        found = {(item["kind"], item["metadata"]["name"]): item for item in kustomize(made / "deploy" / "overlays" / mode)}
        callers = {SERVER, CLIENT} if mode == "kubernetes" else {SERVER}
        assert {name for kind, name in found if kind == "Role"} == callers
        for name in callers:
            assert found["Role", name]["rules"] == ENDPOINT_SLICES
            [subject] = found["RoleBinding", name]["subjects"]
            assert (subject["name"], found["RoleBinding", name]["roleRef"]["name"]) == (name, name)
            assert (
                found["NetworkPolicy", f"{name}-to-api"]["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == name
            )
        for name in (SERVER, CLIENT):
            assert found["Deployment", name]["spec"]["template"]["spec"]["automountServiceAccountToken"] is (name in callers)


def test_the_folder_stays_small() -> None:
    """Files, lines of YAML, and lines of one script."""
    files = [path for path in (project() / "deploy").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    assert len(files) <= 38
    assert sum(count for path, count in lines.items() if path.suffix == ".yaml") <= 1000
    assert max(count for path, count in lines.items() if path.suffix == ".py") <= 250
