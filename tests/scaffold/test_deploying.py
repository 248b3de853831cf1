"""What deploy.py decides before it changes anything: which overlay, which image, and what it refuses. kubectl is real where it renders;
what it says of a cluster is the test's."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bake import SLUG

from .rendered import NEEDS_KUBECTL, OVERLAYS, deploy, project

pytestmark = NEEDS_KUBECTL

IMAGE = "registry.example.com:5000/team/pair:1.2"

KUBECTL = """#!/bin/sh
case "$*" in
    *" kustomize "*) exec '{kubectl}' "$@" ;;
    *"--raw=/version") echo "$1" >'{running}.namespace' ;;
    *"get deployments"*) cat '{running}' ;;
    *) echo "the cluster is asked to $*" >&2; exit 1 ;;
esac
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """deploy.py on a cluster in which an overlay runs, or none does, with or without TLS."""
    running, program = tmp_path / "running.json", tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(kubectl=shutil.which("kubectl"), running=running))
    program.chmod(0o755)

    def started(
        target: str, overlay: str = "", *, tls: bool = False, folder: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        spec = {"env": [{"name": f"{SLUG.upper()}__TLS__MODE", "value": "mtls"}] if tls else []}
        items = [{"metadata": {"labels": {f"{SLUG}/overlay": overlay}}, "spec": spec}] if overlay else []
        running.write_text(json.dumps({"items": items}))
        given = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "IMAGE": "",
            "LOAD_IMAGE": "",
            "ENV": "",
            "DISCOVERY": "",
            "ETCD_IMAGE": "",
        }
        return deploy(target, folder=folder, variables={**given, **variables})

    return started


def kustomize(overlay: str, folder: Path | None = None) -> list[str]:
    """What plain kubectl would apply."""
    command = ["kubectl", "kustomize", str((folder or project()) / "deploy" / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_make_deploy_applies_what_kubectl_applies_but_for_the_image(run: Run, overlay: str) -> None:
    """Line by line: the image of server and load generator differs, and the labels with its version; etcd's only if one is given."""
    done = run("render", ENV=overlay, IMAGE=IMAGE)
    assert done.returncode == 0, done.stderr
    plain, ours = kustomize(overlay), done.stdout.splitlines()
    assert len(plain) == len(ours)
    changed = {(before.strip(), after.strip()) for before, after in zip(plain, ours, strict=True) if before != after}
    expected = {
        (f"image: localhost/{SLUG}:latest", f"image: {IMAGE}"),
        ("app.kubernetes.io/version: latest", 'app.kubernetes.io/version: "1.2"'),
    }
    assert changed == (set() if overlay == "production" else expected)
    etcd = run("render", ENV=overlay, IMAGE=IMAGE, ETCD_IMAGE="localhost/etcd:1").stdout.splitlines()
    other = [after.strip() for before, after in zip(ours, etcd, strict=True) if before != after]
    assert other == (["image: localhost/etcd:1"] if overlay == "etcd" else [])


@pytest.mark.parametrize(("namespace", "asked"), [("", ""), ("namespace: staging\n", "staging")])
def test_the_namespace_is_the_overlays_own(run: Run, tmp_path: Path, namespace: str, asked: str) -> None:
    """And never that of a caller whose account an object names."""
    made = shutil.copytree(project(), tmp_path / SLUG)
    overlay = made / "deploy" / "overlays" / "kubernetes"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": f"{SLUG}-callers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": f"{SLUG}-client"},
        "subjects": [{"kind": "ServiceAccount", "name": "a-frontend", "namespace": "shop"}],
    }  # fmt: skip
    (overlay / "callers.yaml").write_text(json.dumps(binding))
    place = overlay / "kustomization.yaml"
    place.write_text(namespace + place.read_text().replace("resources:\n", "resources:\n  - callers.yaml\n"))
    assert run("check", folder=made, IMAGE=IMAGE).returncode == 0
    assert (tmp_path / "running.json.namespace").read_text() == f"--namespace={asked}\n"


@pytest.mark.parametrize("label", ["", "overlay: production"])
def test_a_copied_overlay_needs_a_label_of_its_own(run: Run, tmp_path: Path, label: str) -> None:
    """By which the next deployment without a variable finds it, and not the one that it was copied from."""
    made = shutil.copytree(project(), tmp_path / SLUG)
    copy = shutil.copytree(made / "deploy" / "overlays" / "production", made / "deploy" / "overlays" / "staging")
    place, line = copy / "kustomization.yaml", f"{SLUG}/overlay: production"
    place.write_text(place.read_text().replace(line, f"{SLUG}/{label}" if label else "example.com/other: label"))
    done = run("check", folder=made, ENV="staging")
    assert done.returncode == 1
    assert f"deploy/overlays/staging must set the label {SLUG}/overlay: staging" in done.stderr
    place.write_text(place.read_text().replace("example.com/other: label", line).replace(line, f"{SLUG}/overlay: staging"))
    assert run("check", folder=made, ENV="staging").returncode == 0


def test_without_a_variable_the_overlay_that_runs_is_deployed(run: Run) -> None:
    """And the project's default where none does; a given one comes before both."""
    assert run("render").stdout == run("render", ENV="kubernetes").stdout
    assert run("render", "dns").stdout == run("render", DISCOVERY="dns").stdout != run("render").stdout
    assert run("render", "dns", DISCOVERY="etcd").stdout == run("render", ENV="etcd").stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DISCOVERY": "kubernets"}, ["there is no deploy/overlays/kubernets", "DISCOVERY", *OVERLAYS]),
        ({"DISCOVERY": "etcd", "ENV": "production"}, ["there is no deploy/overlays/etcd and production", "ENV or DISCOVERY", *OVERLAYS]),
        ({"ENV": "../overlays/dns"}, ["there is no deploy/overlays/../overlays/dns", *OVERLAYS]),
        ({"TIMEOUT": "soon"}, ["TIMEOUT=soon is not a number", "TIMEOUT=300"]),
        ({"TIMEOUT": "-1"}, ["TIMEOUT=-1 is not a number", "TIMEOUT=300"]),
        ({"PATH": "/nowhere"}, ["'kubectl'", "is kubectl installed"]),
        ({"IMAGE": IMAGE, "ENV": "production"}, [f"IMAGE={IMAGE} would not be used", "deploy/overlays/production", "change it there"]),
        ({}, [f"localhost/{SLUG}:", "names no image registry", "newName", "IMAGE", "LOAD_IMAGE"]),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_sentence(run: Run, variables: dict[str, str], words: list[str]) -> None:
    """With the variable, its value, and what to write."""
    done = run("check", **variables)
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("make: ")
    for word in words:
        assert word in said


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"production"}))
def test_no_variable_turns_tls_off(run: Run, overlay: str) -> None:
    """Where production runs, an overlay without it is refused, whatever the variable; production itself is deployed again."""
    for variable in ("ENV", "DISCOVERY"):
        done = run("check", "production", tls=True, **{variable: overlay}, IMAGE=IMAGE)
        assert done.returncode == 1
        assert re.search(f"production runs with TLS, and deploy/overlays/{overlay} would turn it off", done.stderr)
    assert run("check", "production", tls=True).returncode == 0
    assert run("check", "dns", **{"DISCOVERY": overlay}, IMAGE=IMAGE).returncode == 0


def test_an_image_is_built_only_where_the_overlay_takes_it(run: Run) -> None:
    """Not for an image that is given, and not where the overlay names one itself."""
    assert run("check", LOAD_IMAGE="kind load").stdout == deploy("image").stdout + "\n"
    assert run("check", IMAGE=IMAGE).stdout == ""
    assert run("check", ENV="production").stdout == ""


@pytest.mark.parametrize("tag", ["newTag: '1.10'", 'newTag: "1.10"', "newTag: v1.10"])
def test_the_image_of_the_overlays_may_be_quoted_as_kustomize_does(run: Run, tmp_path: Path, tag: str) -> None:
    """`kustomize edit set image` writes quotes where a tag looks like a number."""
    made = shutil.copytree(project(), tmp_path / SLUG)
    place = made / "deploy" / "components" / "image" / "kustomization.yaml"
    place.write_text(place.read_text().replace(f"localhost/{SLUG}", "registry/team").replace("newTag: latest", tag))
    assert run("render", folder=made, IMAGE=IMAGE).stdout.count(f" image: {IMAGE}\n") == 2
    assert run("check", folder=made).stdout.startswith("registry/team:")


def test_a_digest_in_place_of_the_tag_is_deployed_as_it_lies(run: Run, tmp_path: Path) -> None:
    """In components/image, too."""
    made = shutil.copytree(project(), tmp_path / SLUG)
    place = made / "deploy" / "components" / "image" / "kustomization.yaml"
    place.write_text(place.read_text().replace("newTag: latest", f"digest: sha256:{'a' * 64}"))
    assert run("check", folder=made).stdout == ""
    assert run("render", folder=made).stdout.splitlines() == kustomize("kubernetes", made)
    assert f"IMAGE={IMAGE} would not be used" in run("check", folder=made, IMAGE=IMAGE).stderr


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("pair:1.2", "1.2"),
        ("registry.example.com:5000/team/pair:v1.2-rc.1_x", "v1.2-rc.1_x"),
        ("registry.example.com:5000/team/pair", "latest"),
        (f"pair@sha256:{'a' * 64}", "a" * 63),
        (f"registry:5000/pair:1.2@sha256:{'b' * 64}", "b" * 63),
        (f"pair:{'c' * 62}-{'d' * 10}", "c" * 62),
        ("pair:_", "latest"),
    ],
)
def test_the_version_of_any_image_is_a_label(run: Run, image: str, version: str) -> None:
    """Of at most 63 letters, digits, and between them '-', '_' or '.'; a tag may be longer, and a digest has 64."""
    text = run("render", IMAGE=image).stdout
    assert text.count(f" image: {image}\n") == 2
    assert set(re.findall("app.kubernetes.io/version: (.*)", text)) == {f'"{version}"'}
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", version)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"plain\t{}\n", "plain\t{}\n"),
        ("Zoë 🎉\n".encode(), "Zoë 🎉\n"),
        (b"\x1b[2J\x07\x08\n", r"\x1b[2J\x07\x08" + "\n"),
        (b"\xc2\x9b31m \x7f\n", r"\x9b31m \x7f" + "\n"),
        (b"\xff\xfe\n", r"\xff\xfe" + "\n"),
        ("\u202e\u2066\u200f\n".encode(), r"\u202e\u2066\u200f" + "\n"),
        (b"no end", "no end"),
    ],
)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "POSIX"])
def test_what_a_pod_prints_cannot_control_the_terminal(printed: bytes, shown: str, locale: str) -> None:
    """Escape sequences, C1 controls, bytes that are no UTF-8, and changes of direction are shown as what they are."""
    command = [sys.executable, "-B", str(project() / "deploy" / "deploy.py"), "escape"]
    environment = {**os.environ, "LC_ALL": locale}
    done = subprocess.run(command, input=printed, env=environment, capture_output=True, check=True, timeout=30)
    assert done.stdout.decode() == shown
