"""What `make deploy` decides before it asks a cluster: what a site may choose, the order, and its sentences."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.bake import SLUG

from .rendered import MODES, NEEDS_KUBECTL, deploy, project

Deployment = dict[str, Any]
SERVER, CLIENT = f"{SLUG}-server", f"{SLUG}-client"


@pytest.fixture(scope="module")
def modules() -> Iterator[ModuleType]:
    """The baked project's package, with its modules as attributes."""
    sys.path.insert(0, str(project()))
    try:
        package = importlib.import_module("deploy")
        for path in (project() / "deploy").glob("[a-z]*.py"):
            importlib.import_module(f"deploy.{path.stem}")
        yield package
    finally:
        sys.path.remove(str(project()))
        for name in [name for name in sys.modules if name.partition(".")[0] == "deploy"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DISCOVERY": "kubernets"}, ["DISCOVERY=kubernets is not in this project", *MODES]),
        ({"COMPONENTS": "zones,mlts"}, ["COMPONENTS=mlts is not in this project", "mtls"]),
        ({"DRY_RUN": "perhaps"}, ["DRY_RUN=perhaps is neither yes nor no", "DRY_RUN=1"]),
        ({"TIMEOUT": "soon"}, ["TIMEOUT=soon is not a number", "TIMEOUT=300"]),
        ({"PATH": "/nowhere"}, ["'kubectl' is not on PATH; install it"]),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(variables: dict[str, str], words: list[str]) -> None:
    """With the variable, its value, and what to write."""
    done = deploy("deploy", variables=variables)
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("make deploy: ")
    for word in words:
        assert word in said


@NEEDS_KUBECTL
def test_a_number_of_servers_that_is_none_is_reported() -> None:
    """`make scale` without N."""
    assert deploy("scale", "").stderr == "make scale: N= is not a number of servers; write for example make scale N=5\n"


def test_the_cluster_is_made_by_kind_or_the_lack_of_it_is_reported() -> None:
    """Either way, the command line says with what."""
    assert "'kind' is not on PATH; it makes clusters" in deploy("cluster", variables={"PATH": "/nowhere"}).stderr


@pytest.mark.parametrize(
    ("printed", "reported"),
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
def test_what_kubectl_says_becomes_a_sentence(modules: ModuleType, printed: str, reported: str) -> None:
    """That says what to do."""
    assert modules.kubectl.sentence(printed).startswith(reported)


def existing(mode: str, *, replicas: int = 3, min_ready: int = 0) -> dict[str, Deployment]:
    """Deployments as the cluster has them."""
    spec = {"replicas": replicas, "minReadySeconds": min_ready}
    annotations = {"discovery-mode": mode}
    return {name: {"metadata": {"name": name, "annotations": annotations}, "spec": spec} for name in (SERVER, CLIENT)}


def rollout(modules: ModuleType, mode: str, before: dict[str, Deployment]) -> Any:
    site = modules.site.Site.of({"DISCOVERY": mode})
    return modules.rollout.Rollout(modules.kubectl.Kubectl(), site, "pair:1", before)


@pytest.mark.parametrize("mode", MODES)
def test_servers_roll_first_unless_they_leave_a_registry_that_clients_still_read(modules: ModuleType, mode: str) -> None:
    """In the other order there would be a moment at which clients find nobody."""
    assert rollout(modules, mode, {})._order() == (SERVER, CLIENT)
    assert rollout(modules, mode, existing("dns"))._order() == (SERVER, CLIENT)
    leaves = not mode.startswith("etcd")
    assert rollout(modules, mode, existing("etcd"))._order() == ((CLIENT, SERVER) if leaves else (SERVER, CLIENT))


@NEEDS_KUBECTL
def test_a_rollout_keeps_the_number_of_pods_and_the_slower_pace(modules: ModuleType) -> None:
    """Clients of the old mode may need longer to see a new server; the last step takes the new mode's own pace."""
    change = rollout(modules, "passthrough", existing("native-dns", replicas=7, min_ready=70))
    assert "minReadySeconds: 70" in change.render(last=False)
    assert "minReadySeconds" not in change.render()
    assert "replicas: 7" in change.render()
    assert "replicas: 7" not in rollout(modules, "passthrough", {}).render()
    slow = rollout(modules, "native-dns", existing("passthrough"))
    assert "minReadySeconds: 70" in slow.render(last=False)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ('{"severity": "INFO", "message": "served by SLUG-server-abc-12345=3"}', "served by server-abc-12345=3"),
        ('{"severity": "WARNING", "message": "not ready"}', "WARNING not ready"),
        ('{"level": "info", "msg": "ready to serve"}', "ready to serve"),
        ('{"level": "INFO"}', '{"level": "INFO"}'),
        ("Traceback", "Traceback"),
    ],
)
def test_logs_are_shown_as_a_person_reads_them(modules: ModuleType, line: str, read: str) -> None:
    """What is not a line of JSON stays as it is."""
    assert modules.logs.readable(line.replace("SLUG", SLUG)) == read


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
def test_only_the_newest_pods_end_a_rollout_and_only_for_what_stays_so(
    modules: ModuleType, reason: str, message: str, fatal: bool
) -> None:
    """Those of before go by themselves, and a node that has not read a ConfigMap yet tries again."""
    pods = [waiting_pod("old", "ImagePullBackOff", "no such image"), waiting_pod("new", reason, message)]
    sets = [replica_set("old", "1"), replica_set("new", "2")]
    kubectl: Any = SimpleNamespace(get=lambda kind, *_: {"items": {"pods": pods, "replicasets": sets}[kind]})
    deployment = {"metadata": {"uid": "u", "annotations": {"deployment.kubernetes.io/revision": "2"}}}
    [found] = modules.kubectl.problems(kubectl, "deployment", [deployment], "")
    assert "pod-new" in found.text
    assert found.fatal is fatal


@pytest.mark.parametrize(
    ("container", "setting"), [("server", "set IMAGE to"), ("client", "set IMAGE to"), ("etcd", "set ETCD_IMAGE to")]
)
def test_an_image_that_cannot_be_pulled_names_its_own_setting(modules: ModuleType, container: str, setting: str) -> None:
    """The trial etcd's image is another one than the pair's."""
    found: list[dict[str, Any]] = [waiting_pod("new", "ImagePullBackOff", "no such image", container)]
    kubectl: Any = SimpleNamespace(get=lambda kind, *_: {"items": found if kind == "pods" else [replica_set("new", "1")]})
    deployment = {"metadata": {"uid": "u", "annotations": {"deployment.kubernetes.io/revision": "1"}}}
    [problem] = modules.kubectl.problems(kubectl, "deployment", [deployment], "")
    assert setting in problem.text
