"""What `make deploy` decides before it asks a cluster: what a site may choose, the image's name, the order, and its sentences."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deploy import image, project
from deploy.kubectl import Kubectl, sentence
from deploy.logs import readable
from deploy.manifests import CLIENT, MODE, SERVER
from deploy.pods import troubles
from deploy.rollout import Rollout
from deploy.site import RefusedError, Site

from .rendered import MODES, NEEDS_KUBECTL

Deployment = dict[str, Any]


def make(target: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As make calls it."""
    command = [sys.executable, "-B", "-m", "deploy", target, *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DISCOVERY": "kubernets"}, ["DISCOVERY=kubernets is not in this project", *MODES]),
        ({"COMPONENTS": "zones,mlts"}, ["COMPONENTS=mlts is not in this project", "mtls"]),
        ({"DRY_RUN": "perhaps"}, ["DRY_RUN=perhaps is neither yes nor no", "DRY_RUN=1"]),
        ({"TIMEOUT": "soon"}, ["TIMEOUT=soon is no number", "TIMEOUT=300"]),
        ({"PATH": "/nowhere"}, ["'kubectl' is not on PATH; install it"]),
    ],
)
def test_a_mistake_is_told_in_one_sentence(variables: dict[str, str], words: list[str]) -> None:
    """With the variable, its value, and what to write."""
    done = make("deploy", **variables)
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("make deploy: ")
    for word in words:
        assert word in said


@NEEDS_KUBECTL
def test_a_number_of_servers_that_is_none_is_told() -> None:
    """`make scale` without N."""
    assert make("scale", "").stderr == "make scale: N= is no number of servers; write for example make scale N=5\n"


def test_the_cluster_is_made_by_kind_or_the_lack_of_it_is_told() -> None:
    """Either way, the command line says with what."""
    assert "'kind' is not on PATH; it makes clusters" in make("cluster", PATH="/nowhere").stderr


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            "no cluster answers",
        ),
        ("Unable to connect to the server: dial tcp: lookup nowhere: no such host", "no cluster answers"),
        ("error: You must be logged in to the server (Unauthorized)", "the cluster does not know you"),
        (
            'Error from server (Forbidden): deployments.apps is forbidden: User "u" cannot list resource "deployments"',
            'you have no right to that: (Forbidden): deployments.apps is forbidden: User "u" cannot list',
        ),
        ("error: something else", "kubectl says: something else"),
        ("", "kubectl says: no reason given"),
    ],
)
def test_what_kubectl_says_becomes_a_sentence(said: str, told: str) -> None:
    """That says what to do."""
    assert sentence(said).startswith(told)


def test_the_images_name_changes_with_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And with nothing else; so a changed source rolls the pods, and the same one does not."""
    monkeypatch.setattr(image, "ROOT", tmp_path)
    for name in ("Dockerfile", "requirements/image.lock", "src/a.py", "src/tests/test_a.py", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    site = Site.of({})
    first = image.name(site)
    assert first.startswith(f"{project.IMAGE}:")
    for name in ("README.md", "src/tests/test_a.py"):
        (tmp_path / name).write_text("2")
    assert image.name(site) == first
    assert image.name(Site.of({"BASE_IMAGE": "python:other"})) != first
    for name in ("Dockerfile", "requirements/image.lock", "src/a.py"):
        before = image.name(site)
        (tmp_path / name).write_text("2")
        assert image.name(site) != before
    assert image.name(Site.of({"IMAGE": "registry/pair:1"})) == "registry/pair:1"


def test_an_image_without_a_registry_is_not_pushed() -> None:
    """The way to load it is told."""
    with pytest.raises(RefusedError, match="names no registry to push to; set IMAGE=.*, or.* LOAD_IMAGE"):
        image.push(Site.of({"IMAGE": "localhost/pair:1"}))


def living(mode: str, *, replicas: int = 3, min_ready: int = 0) -> dict[str, Deployment]:
    """Deployments as the cluster has them."""
    spec = {"replicas": replicas, "minReadySeconds": min_ready}
    return {name: {"metadata": {"name": name, "annotations": {MODE: mode}}, "spec": spec} for name in (SERVER, CLIENT)}


def rollout(mode: str, before: dict[str, Deployment]) -> Rollout:
    return Rollout(Kubectl(), Site.of({"DISCOVERY": mode}), "pair:1", before)


@pytest.mark.parametrize("mode", MODES)
def test_servers_roll_first_unless_they_leave_a_registry_that_clients_still_read(mode: str) -> None:
    """In the other order there would be a moment at which clients find nobody."""
    assert rollout(mode, {})._order() == (SERVER, CLIENT)
    assert rollout(mode, living("dns"))._order() == (SERVER, CLIENT)
    leaves = not mode.startswith("etcd")
    assert rollout(mode, living("etcd"))._order() == ((CLIENT, SERVER) if leaves else (SERVER, CLIENT))


@NEEDS_KUBECTL
def test_a_rollout_keeps_the_number_of_pods_and_the_slower_pace() -> None:
    """Clients of the old mode may need longer to see a new server; the last step takes the new mode's own pace."""
    change = rollout("passthrough", living("native-dns", replicas=7, min_ready=70))
    assert "minReadySeconds: 70" in change.render(last=False)
    assert "minReadySeconds" not in change.render()
    assert "replicas: 7" in change.render()
    assert "replicas: 7" not in rollout("passthrough", {}).render()
    slow = rollout("native-dns", living("passthrough"))
    assert "minReadySeconds: 70" in slow.render(last=False)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ('{"level": "INFO", "message": "served by SLUG-server-abc-12345=3"}', "served by server-abc-12345=3"),
        ('{"level": "WARNING", "message": "not ready"}', "WARNING not ready"),
        ('{"level": "info", "msg": "ready to serve"}', "ready to serve"),
        ('{"level": "INFO"}', '{"level": "INFO"}'),
        ("Traceback", "Traceback"),
    ],
)
def test_logs_are_shown_as_a_person_reads_them(line: str, read: str) -> None:
    """What is no line of JSON stays as it is."""
    assert readable(line.replace("SLUG", project.SLUG)) == read


def waiting_pod(of: str, reason: str, message: str, container: str = "server") -> dict[str, Any]:
    """A pod of one ReplicaSet, whose container waits."""
    state = {"name": container, "image": "pair:1", "state": {"waiting": {"reason": reason, "message": message}}}
    return {"metadata": {"name": f"pod-{of}", "labels": {"pod-template-hash": of}}, "status": {"containerStatuses": [state]}}


def replica_set(of: str, revision: str) -> dict[str, Any]:
    annotations = {"deployment.kubernetes.io/revision": revision}
    return {"metadata": {"labels": {"pod-template-hash": of}, "annotations": annotations, "ownerReferences": [{"uid": "u"}]}}


@pytest.mark.parametrize(
    ("reason", "message", "fatal"),
    [
        ("ImagePullBackOff", "no such image", True),
        ("CreateContainerConfigError", 'configmap "x" not found', True),
        ("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition", False),
    ],
)
def test_only_the_newest_pods_end_a_rollout_and_only_for_what_stays_so(reason: str, message: str, fatal: bool) -> None:
    """Those of before go by themselves, and a node that has not read a ConfigMap yet tries again."""
    pods = [waiting_pod("old", "ImagePullBackOff", "no such image"), waiting_pod("new", reason, message)]
    sets = [replica_set("old", "1"), replica_set("new", "2")]
    told: Any = SimpleNamespace(get=lambda kind, *_: {"items": {"pods": pods, "replicasets": sets}[kind]})
    deployment = {"metadata": {"uid": "u", "annotations": {"deployment.kubernetes.io/revision": "2"}}}
    [found] = troubles(told, "deployment", [deployment], "")
    assert "pod-new" in found.text
    assert found.fatal is fatal


@pytest.mark.parametrize(
    ("container", "setting"), [("server", "set IMAGE to"), ("client", "set IMAGE to"), ("etcd", "set ETCD_IMAGE to")]
)
def test_an_image_that_cannot_be_pulled_names_its_own_setting(container: str, setting: str) -> None:
    """The trial etcd's image is another one than the pair's."""
    found: list[dict[str, Any]] = [waiting_pod("new", "ImagePullBackOff", "no such image", container)]
    told: Any = SimpleNamespace(get=lambda kind, *_: {"items": found if kind == "pods" else [replica_set("new", "1")]})
    deployment = {"metadata": {"uid": "u", "annotations": {"deployment.kubernetes.io/revision": "1"}}}
    [trouble] = troubles(told, "deployment", [deployment], "")
    assert setting in trouble.text
