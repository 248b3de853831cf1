"""`make deploy` and plain `kubectl apply -k` on a real cluster: calls flow in every overlay and through every change."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.bake import SLUG

from .conftest import OVERLAYS, PLAIN, namespace, neighbors, of_neighbors
from .deployed import Deployed, Object, kubectl, variables

pytestmark = pytest.mark.cluster

Fleet = dict[str, Deployed]
FIRST = "kubernetes"


def everything(where: str, *arguments: str) -> list[Object]:
    """All objects of a namespace that people write: not those that controllers make of them."""
    kinds = set(kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split())
    made = {"bindings", "events", "events.events.k8s.io", "endpoints", "pods.metrics.k8s.io"}
    found: list[Object] = json.loads(
        kubectl("--namespace", where, "get", ",".join(sorted(kinds - made)), "-o", "json", *arguments)
    )["items"]
    return [item for item in found if "ownerReferences" not in item["metadata"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_called_evenly(deployments: Fleet, overlay: str) -> None:
    """Each within 25 % over its three servers, but for passthrough, whose one connection has one server. All pods are ready."""
    there = deployments[overlay]
    with there.followed() as logs:
        logs.wait_even(1 if overlay == "passthrough" else 3)
        assert logs.seconds[-1].served.keys() <= there.names("server")
    pods = there.pods("server") + there.pods("load-generator")
    assert len(pods) == 4
    for pod in pods:
        assert [status["ready"] for status in pod["status"]["containerStatuses"]] == [True]
        assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"etcd"}))
def test_the_other_way_to_deploy_the_same_overlay_changes_nothing(deployments: Fleet, overlay: str) -> None:
    """What plain kubectl has applied, make deploys over it, and the other way round: the same pods, of the same specification."""
    there = deployments[overlay]

    def seen() -> Any:
        roles = ("server", "load-generator")
        return [(there.deployment(role)["spec"], there.names(role)) for role in roles]

    before = seen()
    if overlay in PLAIN:
        there.make("deploy")
    else:
        there.name_image(there.image)
        there.apply(overlay)
        there.rolled_out()
    assert seen() == before


def test_make_deploy_makes_the_objects_that_kubectl_makes(deployments: Fleet) -> None:
    """Each way in a namespace of its own that runs no pods: equal but for what is unique to an object."""
    spaces: list[str] = []

    def made(there: Deployed, overlay: str, way: str) -> dict[tuple[str, str], Object]:
        where = Deployed(there.project, namespace(f"cluster-{uuid.uuid4().hex[:8]}-{way}"), there.image)
        spaces.append(where.namespace)
        where.kubectl("create", "quota", "no-pods", "--hard=pods=0")
        if way == "kubectl":
            where.apply(overlay)
        else:
            said = where.ask("deploy", ENV=overlay, TIMEOUT="1")
            assert "is not rolled out" in said.stderr  # without pods
        found = {}
        for item in everything(where.namespace, f"--selector={there.project.name}/overlay"):
            metadata = {key: item["metadata"][key] for key in ("name", "labels")}
            for unique in ("clusterIP", "clusterIPs", *(["replicas"] if overlay == "production" else [])):  # an autoscaler's
                item.get("spec", {}).pop(unique, None)
            item = {key: value for key, value in item.items() if key not in ("metadata", "status")} | {"metadata": metadata}
            found[item["kind"], metadata["name"]] = json.loads(json.dumps(item).replace(where.namespace, "here"))
        return found

    def compared(overlay: str) -> tuple[Any, Any]:
        return made(deployments[overlay], overlay, "kubectl"), made(deployments[overlay], overlay, "make")

    try:
        with ThreadPoolExecutor(3) as pool:
            for plain, by_make in pool.map(compared, ("kubernetes", "etcd", "production")):
                assert len(plain) >= 9
                assert by_make == plain
    finally:
        kubectl("delete", "namespace", "--wait=false", *spaces)


def test_no_call_fails_while_servers_are_added_removed_and_replaced(deployments: Fleet) -> None:
    """At 100 calls a second without a retry."""
    there = deployments[FIRST]
    with there.followed() as logs:
        logs.wait_even(3)
        there.kubectl("scale", f"deployment/{SLUG}-server", "--replicas=5")
        logs.wait_even(5)
        before = there.names("server")
        there.kubectl("scale", f"deployment/{SLUG}-server", "--replicas=3")
        there.gone(*(before - there.names("server")))
        logs.wait_even(3)
        before = there.names("server")
        assert "successfully rolled out" in there.make("restart")
        there.gone(*before)
        logs.wait_even(3)
        assert logs.failed() == {}
        assert logs.calls() > 1000


def test_a_number_of_servers_that_a_person_has_set_is_not_undone(deployments: Fleet) -> None:
    """By kubectl's own conflict; nothing is changed. Where the file says the same again, make deploys."""
    there = deployments[FIRST]
    there.kubectl("scale", f"deployment/{SLUG}-server", "--replicas=4")
    there.rolled_out()
    before = [item["metadata"]["generation"] for item in map(there.deployment, ("server", "load-generator"))]
    there.setting("load-generator", **variables(CLIENT__RATE="90"))
    said = there.ask("deploy")
    assert said.returncode != 0
    assert ".spec.replicas" in said.stderr
    assert "conflict" in said.stderr
    assert [item["metadata"]["generation"] for item in map(there.deployment, ("server", "load-generator"))] == before
    there.edit("server/deployment.yaml", "replicas: 3", "replicas: 4")
    there.make("deploy")
    assert there.deployment("server")["spec"]["replicas"] == 4
    assert there.environment("load-generator")["GREETER__CLIENT__RATE"] == "90"
    there.edit("server/deployment.yaml", "replicas: 4", "replicas: 3")
    said = there.ask("deploy")
    assert ".spec.replicas" in said.stderr
    there.kubectl("scale", f"deployment/{SLUG}-server", "--replicas=3")
    there.make("deploy")


def test_a_change_of_mode_loses_no_call_and_deletes_what_only_the_old_one_names(deployments: Fleet) -> None:
    """From Kubernetes to etcd and back. The calls of a new client count from when it is ready: before, nobody has registered in etcd."""
    there = deployments[FIRST]
    assert "not found" not in there.kubectl("get", "role", f"{SLUG}-client", "-o", "name")
    with there.followed() as logs:
        for overlay in ("etcd", "kubernetes"):
            before = there.names("server") | there.names("load-generator")
            there.make("deploy", DISCOVERY=overlay)
            [client] = there.names("load-generator")
            logs.wait_for(client)
            there.gone(*before)
            logs.wait_even(3)
            names = {(item["kind"], item["metadata"]["name"]) for item in everything(there.namespace)}
            assert (("StatefulSet", f"{SLUG}-etcd") in names) == (overlay == "etcd")
            assert (("Service", f"{SLUG}-etcd") in names) == (overlay == "etcd")
            assert (("Role", f"{SLUG}-client") in names) == (overlay == "kubernetes")
            assert ("GREETER__REGISTRATION__TARGET" in there.environment("server")) == (overlay == "etcd")
            assert logs.failed() == {}, overlay
        assert logs.calls() > 1000


def test_the_account_of_the_client_may_read_slices_and_nothing_else(deployments: Fleet) -> None:
    """What `kubectl auth can-i --list` says in the mode kubernetes, beyond what every account may."""
    there = deployments["kubernetes"]
    there.make("deploy", DISCOVERY="kubernetes")

    def rights(account: str) -> set[str]:
        who = f"--as=system:serviceaccount:{there.namespace}:{account}"
        groups = ("--as-group=system:serviceaccounts", "--as-group=system:authenticated")
        lines = there.kubectl("auth", "can-i", "--list", who, *groups).splitlines()[1:]
        return {" ".join(line.split()) for line in lines}

    client = rights(f"{SLUG}-client") - rights("default")
    assert client == {"endpointslices.discovery.k8s.io [] [] [get list watch]"}
    assert rights(f"{SLUG}-server") == rights("default")


def test_settings_are_rolled_back_and_forward_with_the_number_that_an_autoscaler_has_set(deployments: Fleet) -> None:
    """`make deploy`, `kubectl rollout undo`, `make deploy`: five servers at each step, and no call fails without a retry."""
    there = deployments["production"]
    there.setting("load-generator", **variables(CLIENT__RATE="50", CLIENT__RETRY__ATTEMPTS="1"))
    there.make("deploy")
    there.kubectl("patch", "hpa", f"{SLUG}-server", "--patch", '{"spec": {"minReplicas": 5}}')
    there.kubectl("wait", f"deployment/{SLUG}-server", "--for=jsonpath={.spec.replicas}=5", "--timeout=120s")
    there.rolled_out()
    there.edit("components/autoscale/autoscaler.yaml", "minReplicas: 3", "minReplicas: 5")
    counts = []
    with there.followed() as logs:
        logs.wait_even(5)
        there.setting("server", **variables(LOG__LEVEL="WARNING"))
        for step in ("deploy", "undo", "deploy"):
            before = there.names("server")
            if step == "deploy":
                there.make("deploy")
            else:
                there.kubectl("rollout", "undo", f"deployment/{SLUG}-server")
                there.rolled_out()
            there.gone(*before)
            assert ("GREETER__LOG__LEVEL" in there.environment("server")) == (step == "deploy")
            counts.append(there.deployment("server")["spec"]["replicas"])
            logs.wait_even(5)
        assert logs.failed() == {}
    assert counts == [5, 5, 5]


def test_make_deploy_takes_over_what_plain_kubectl_has_applied(deployments: Fleet) -> None:
    """From etcd to kubernetes: nothing is left of the first, neither an entry of env nor an object."""
    there = deployments["etcd"]
    assert "GREETER__REGISTRATION__TARGET" in there.environment("server")
    there.make("deploy", DISCOVERY="kubernetes")
    for role in ("server", "load-generator"):
        names = there.environment(role)
        assert not [name for name in names if "REGISTRATION__TARGET" in name or "ETCD" in name]
    assert there.environment("load-generator")["GREETER__CLIENT__TARGET"].startswith("kubernetes:")
    assert not [item for item in everything(there.namespace) if item["metadata"]["name"].endswith("etcd")]


def test_neighbors_stay_bit_for_bit_and_undeploying_leaves_nothing(deployments: Fleet) -> None:
    """Through a deployment, a change of the mode, a restart, and the end; neither objects with the same labels are touched nor those
    with names that another overlay has, nor another project's pods, which go on calling."""
    there, other = deployments["passthrough"], deployments["native-dns"]
    before = of_neighbors(there.namespace)
    others = other.names("server") | other.names("load-generator"), [other.deployment("server")["metadata"]["generation"]]
    with other.followed() as logs:
        for target, given in (("deploy", {"DISCOVERY": "kubernetes"}), ("restart", {}), ("undeploy", {})):  # fmt: skip
            there.make(target, **given)
            assert of_neighbors(there.namespace) == before, target
        logs.wait_even(3)
        assert logs.failed() == {}
    assert (
        other.names("server") | other.names("load-generator"),
        [other.deployment("server")["metadata"]["generation"]],
    ) == others
    theirs = {(item["kind"], item["metadata"]["name"]) for item in neighbors(there.namespace)}
    left = {(item["kind"], item["metadata"]["name"]) for item in everything(there.namespace)} - theirs
    assert {name for name in left if name[1].startswith(SLUG)} == set()
    assert there.pods("server") == there.pods("load-generator") == []
    assert there.make("undeploy") == ""
