"""`make deploy` and its sisters in generated projects, on a real cluster: calls flow in every mode and through every change.

The tests use the deployments that they share in this order.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme

from .conftest import Everywhere
from .deployed import Deployed, kubectl, variables

pytestmark = pytest.mark.cluster


def test_every_deployment_is_called_evenly(everywhere: Everywhere) -> None:
    """kubernetes, native-dns and dns, each within 25 % over its three servers; the pods are ready and restricted."""
    for deployed in (everywhere.main, everywhere.neighbor, everywhere.elsewhere):
        with deployed.followed() as logs:
            logs.wait_even(3)
            assert not any(
                second.served.keys() - {name(deployed, pod) for pod in deployed.pods("server")} for second in logs.seconds[-3:]
            )
        for pod in deployed.pods("server") + deployed.pods("client"):
            assert {"type": "Ready", "status": "True"}.items() <= {c["type"]: c for c in pod["status"]["conditions"]}[
                "Ready"
            ].items()
            assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def name(deployed: Deployed, pod: dict[str, Any]) -> str:
    """As `make logs` writes it: without the project's name."""
    return str(pod["metadata"]["name"]).removeprefix(f"{deployed.project.name}-")


def no_call_fails_through_changes(deployed: Deployed) -> None:
    """Up, down, and all servers replaced, at 200 calls a second without a retry."""
    with deployed.followed() as logs:
        logs.wait_even(3)
        deployed.make("scale", "N=5")
        logs.wait_even(5)
        before = {pod["metadata"]["name"] for pod in deployed.pods("server")}
        deployed.make("scale", "N=3")
        deployed.gone("server", *(before - {pod["metadata"]["name"] for pod in deployed.pods("server")}))
        logs.wait_even(3)
        before = {pod["metadata"]["name"] for pod in deployed.pods("server")}
        deployed.make("restart")
        deployed.gone("server", *before)
        logs.wait_even(3)
        assert logs.failed() == {}
        assert logs.calls() > 2000


def test_kubernetes_loses_no_call_through_changes(everywhere: Everywhere) -> None:
    """Up, down, and all pods replaced."""
    no_call_fails_through_changes(everywhere.main)


def switch(deployed: Deployed, mode: str, servers: int) -> None:
    """Change the mode under load; no call fails in the old clients nor in the new."""
    with deployed.followed() as logs:
        deployed.make("deploy", DISCOVERY=mode)
        newest = sorted(deployed.pods("client"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))[-1]
        logs.wait("the new client", lambda seconds: seconds[-1].client == name(deployed, newest))
        logs.wait_even(servers)
        assert logs.failed() == {}, mode


def test_a_change_to_etcd_loses_no_call_and_keeps_the_number_of_servers(everywhere: Everywhere) -> None:
    """Servers register before the clients look there; what only Kubernetes' mode needs is gone, what a person scaled is kept."""
    main = everywhere.main
    main.make("scale", "N=4")
    switch(main, "etcd", 4)
    assert main.kubectl("get", "roles,rolebindings", "-l", main.selector, "-o", "name") == ""
    main.make("scale", "N=3")


def test_etcd_loses_no_call_through_changes(everywhere: Everywhere) -> None:
    """As with Kubernetes."""
    no_call_fails_through_changes(everywhere.main)


def test_a_change_from_etcd_and_on_to_passthrough_loses_no_call(everywhere: Everywhere) -> None:
    """Clients leave etcd before the servers do; then etcd goes. One connection has one server."""
    main = everywhere.main
    switch(main, "kubernetes", 3)
    left = main.kubectl("get", "statefulsets,services,configmaps", "-l", main.selector, "-o", "name").split()
    assert not [item for item in left if "etcd" in item]
    assert len([item for item in left if item.startswith("configmap/")]) == 2
    switch(main, "passthrough", 1)


@pytest.mark.parametrize(
    ("where", "mode", "serving"),
    [
        ("neighbor", "native-dns", 3),
        ("elsewhere", "dns", 3),
        ("elsewhere", "kubernetes", 3),
        ("main", "passthrough", 1),
        ("main", "etcd", 3),
    ],
)
def test_a_killed_server_loses_no_call_where_clients_retry(everywhere: Everywhere, where: str, mode: str, serving: int) -> None:
    """One that serves, of course. Its container starts again in the same pod."""
    deployed: Deployed = getattr(everywhere, where)
    deployed.setting("client", **variables(CLIENT__RETRY__ATTEMPTS="3"))
    deployed.make("deploy", DISCOVERY=mode)
    with deployed.followed() as logs:
        logs.wait_even(serving)
        killed = f"{deployed.project.name}-{next(iter(logs.seconds[-1].served))}"
        assert killed in deployed.make("kill", f"POD={killed}")
        deployed.kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s", f"pod/{killed}")
        logs.wait_even(serving)
        assert logs.failed() == {}


def test_the_account_of_the_client_may_read_slices_and_nothing_else(everywhere: Everywhere) -> None:
    """What `kubectl auth can-i --list` says in the mode kubernetes, beyond what every account may."""
    there = everywhere.elsewhere

    def rights(account: str) -> set[str]:
        who = f"--as=system:serviceaccount:{there.namespace}:{account}"
        groups = ("--as-group=system:serviceaccounts", "--as-group=system:authenticated")
        lines = there.kubectl("auth", "can-i", "--list", who, *groups).splitlines()[1:]
        return {" ".join(line.split()) for line in lines}

    client = rights(f"{there.project.name}-client") - rights("default")
    assert client == {"endpointslices.discovery.k8s.io [] [] [get list watch]"}
    assert rights(f"{there.project.name}-server") == rights("default")


def an_etcd_of_your_own(deployed: Deployed, folder: Path) -> None:
    """Beside the project: TLS, and a user who may touch the keys of this deployment only; and the Secret from which the pods know it."""
    ca = trustme.CA()
    certificate = ca.issue_cert("own-etcd")
    ca.cert_pem.write_to_path(folder / "ca.crt")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    deployed.kubectl("create", "secret", "tls", "own-etcd", f"--cert={folder / 'tls.crt'}", f"--key={folder / 'tls.key'}")
    data = ("--from-literal=username=pair", "--from-literal=password=secret", f"--from-file={folder / 'ca.crt'}")
    deployed.kubectl("create", "secret", "generic", f"{deployed.project.name}-etcd", *data)
    variables = {
        "ETCD_DATA_DIR": "/data", "ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:2379", "ETCD_ADVERTISE_CLIENT_URLS": "https://own-etcd:2379",
        "ETCD_CERT_FILE": "/tls/tls.crt", "ETCD_KEY_FILE": "/tls/tls.key",
    }  # fmt: skip
    container = {
        "name": "etcd", "image": "localhost/etcd:3.6", "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/tls"}],
        "readinessProbe": {"tcpSocket": {"port": 2379}, "periodSeconds": 1},
    }  # fmt: skip
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tls", "secret": {"secretName": "own-etcd"}}]
    where = {"name": "own-etcd", "namespace": deployed.namespace, "labels": {"app": "own-etcd"}}
    kubectl(
        "create",
        "-f",
        "-",
        given={"apiVersion": "v1", "kind": "Pod", "metadata": where, "spec": {"containers": [container], "volumes": volumes}},
    )
    deployed.kubectl("expose", "pod", "own-etcd", "--port=2379")
    deployed.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/own-etcd")
    address = deployed.kubectl("get", "pod", "own-etcd", "-o", "jsonpath={.status.podIP}")
    for command in (
        "user add root:secret", "role add root", "user grant-role root root", "user add pair:secret", "role add pair", "user grant-role pair pair",
        f"role grant-permission pair readwrite --prefix=true {deployed.namespace}/{deployed.project.name}-server/", "auth enable",
    ):  # fmt: skip
        line = ["etcdctl", f"--endpoints=https://{address}:2379", "--insecure-skip-tls-verify", *command.split()]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"etcdctl {command}: {done.stderr}"


def test_an_etcd_of_your_own_is_used_with_tls_and_a_user(everywhere: Everywhere, tmp_path: Path) -> None:
    """Its address in the overlay, its CA and the user in a Secret, as the docs say."""
    there = everywhere.elsewhere
    an_etcd_of_your_own(there, tmp_path)
    place = there.project / "deploy" / "overlays" / "etcd-external" / "kustomization.yaml"
    place.write_text(place.read_text().replace("https://etcd.example.com:2379", "https://own-etcd:2379"))
    switch(there, "etcd-external", 3)


def test_undeploying_leaves_nothing_and_touches_no_neighbor(everywhere: Everywhere) -> None:
    """Neither in its namespace nor the same project elsewhere."""
    everywhere.main.make("undeploy")
    kinds = ",".join(kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split())
    assert everywhere.main.kubectl("get", kinds, "-l", everywhere.main.selector, "-o", "name") == ""
    assert "nothing of greeter is in the namespace" in everywhere.main.make("status")
    for deployed in (everywhere.neighbor, everywhere.elsewhere):
        with deployed.followed() as logs:
            logs.wait_even(3)
            assert logs.failed() == {}
