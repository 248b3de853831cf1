"""`make deploy` and its sisters in generated projects, on a real cluster.

Three deployments come up at once and are used by all tests, in this order: one project in a namespace, where it goes through
modes; its neighbour, another project in the same namespace; and the first project once more in a namespace elsewhere.
"""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.bake import bake

from .deployed import Deployed, kubectl

pytestmark = pytest.mark.cluster

SENTENCE = 60.0
"""Seconds within which a mistake must have been told."""

RUN = uuid.uuid4().hex[:6]
IMAGE = f"localhost/deploy-test:{RUN}"
TOOL = os.environ.get("CONTAINER_TOOL", "buildah")


@dataclass(frozen=True)
class Everywhere:
    """main: kubernetes at first, 200 calls a second, no retry.  neighbour: native-dns.  elsewhere: dns; both with retries."""

    main: Deployed
    neighbour: Deployed
    elsewhere: Deployed


CHANGES = {
    "server.env": ("SERVER__DRAIN__WAIT=10s", "SERVER__DRAIN__WAIT=3s"),
    "client.env": ("CLIENT__TIMEOUT=2s", "CLIENT__TIMEOUT=10s"),
    "server.yaml": ("cpu: 100m", "cpu: 10m"),
    "client.yaml": ("cpu: 100m", "cpu: 10m"),
}
"""Drains that a test can wait for, a deadline that a busy machine keeps, and room for many pods on one small node."""


def quick(project: Path) -> Path:
    """Make the changes, as a person edits."""
    for file, (old, new) in CHANGES.items():
        path = project / "deploy" / "base" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default project, its image built and loaded once."""
    made = quick(bake(tmp_path_factory.mktemp("main")))
    for target in ("image", "load"):
        Deployed(made, "", IMAGE).make(target)
    yield made
    subprocess.run([TOOL, "rmi", IMAGE], capture_output=True)


def namespace(name: str, **labels: str) -> str:
    kubectl("create", "-f", "-", given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture(scope="module")
def everywhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    """The three. The first namespace admits restricted pods only."""
    here = namespace(f"deploy-{RUN}", **{"pod-security.kubernetes.io/enforce": "restricted"})
    there = f"deploy-{RUN}-elsewhere"  # made by make deploy
    # The same package name, so that both projects can share an image and a test its time.
    other = quick(bake(tmp_path_factory.mktemp("other"), project_name="Other Pair", package_name="greeter_pair", discovery="dns"))
    copy = quick(bake(tmp_path_factory.mktemp("copy")))
    made = Everywhere(Deployed(project, here, IMAGE), Deployed(other, here, IMAGE), Deployed(copy, there, IMAGE))
    made.main.setting("client", CLIENT__RATE="200", CLIENT__RETRY__ENABLED="false")
    made.neighbour.setting("client", CLIENT__RATE="50")
    made.elsewhere.setting("client", CLIENT__RATE="50")
    try:
        with ThreadPoolExecutor() as pool:
            ways = ((made.main, "kubernetes"), (made.neighbour, "native-dns"), (made.elsewhere, "dns"))
            list(pool.map(lambda way: way[0].make("deploy", DISCOVERY=way[1]), ways))
        yield made
    finally:
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", here, there)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that make deploy has ended with."""
    assert done.returncode != 0, done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(said) == 1, done.stderr
    return said[0]


def test_a_mistyped_mode_is_told_with_those_that_exist(project: Path) -> None:
    """Before anything else is done."""
    done = Deployed(project, "", IMAGE).ask("deploy", seconds=SENTENCE, DISCOVERY="kubernets")
    assert "DISCOVERY=kubernets is not in this project; choose one of dns, etcd" in refused(done)


def test_a_missing_cluster_is_told(project: Path, tmp_path: Path) -> None:
    """One that nothing names, and one whose address nobody answers."""
    there = Deployed(project, "", IMAGE)
    assert "no cluster answers" in refused(there.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(tmp_path / "none")))
    silent = tmp_path / "config"
    kubectl("config", "--kubeconfig", str(silent), "set-cluster", "c", "--server=https://127.0.0.1:1")
    kubectl("config", "--kubeconfig", str(silent), "set-credentials", "u", "--token=t")
    kubectl("config", "--kubeconfig", str(silent), "set-context", "c", "--cluster=c", "--user=u")
    kubectl("config", "--kubeconfig", str(silent), "use-context", "c")
    said = refused(there.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(silent)))
    assert "no cluster answers" in said
    assert "set KUBECONFIG" in said


def test_a_missing_right_is_told(everywhere: Everywhere, tmp_path: Path) -> None:
    """As an account that may do nothing."""
    main = everywhere.main
    token = main.kubectl("create", "token", f"{main.project.name}-server").strip()
    config = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "config").write_text(json.dumps(config))
    said = refused(main.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(tmp_path / "config")))
    assert "you have no right to that" in said
    assert f"system:serviceaccount:{main.namespace}:{main.project.name}-server" in said


def test_an_image_that_cannot_be_pulled_is_told_and_the_old_pods_stay(everywhere: Everywhere) -> None:
    """By its name; the next good deployment mends it."""
    there = everywhere.elsewhere
    before = {pod["metadata"]["name"] for pod in there.pods("server")}
    said = refused(there.ask("deploy", seconds=SENTENCE, DISCOVERY="dns", IMAGE="localhost/nowhere:1"))
    assert "the image localhost/nowhere:1 cannot be pulled" in said
    assert before <= {pod["metadata"]["name"] for pod in there.pods("server")}
    there.make("deploy", DISCOVERY="dns")
    assert {pod["metadata"]["name"] for pod in there.pods("server")} == before


def test_an_image_that_can_go_nowhere_is_told_before_it_is_built(project: Path) -> None:
    """localhost is no registry."""
    said = refused(Deployed(project, "", IMAGE).ask("deploy", seconds=SENTENCE, BUILD="yes", LOAD_IMAGE=""))
    assert "names no registry to push to; set IMAGE" in said


def test_every_deployment_is_called_evenly(everywhere: Everywhere) -> None:
    """kubernetes, native-dns and dns, each within 25 % over its three servers; the pods are ready and restricted."""
    for deployed in (everywhere.main, everywhere.neighbour, everywhere.elsewhere):
        with deployed.followed() as logs:
            logs.wait_even(3)
            assert not any(second.served.keys() - {name(pod) for pod in deployed.pods("server")} for second in logs.seconds[-3:])
        for pod in deployed.pods("server") + deployed.pods("client"):
            assert {"type": "Ready", "status": "True"}.items() <= {c["type"]: c for c in pod["status"]["conditions"]}[
                "Ready"
            ].items()
            assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def name(pod: dict[str, object]) -> str:
    """As `make logs` writes it: without the project's name."""
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    return re.sub(r"^.*?-pair-", "", str(metadata["name"]))


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
        logs.wait("the new client", lambda seconds: seconds[-1].client == name(newest))
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
        ("neighbour", "native-dns", 3),
        ("elsewhere", "dns", 3),
        ("elsewhere", "kubernetes", 3),
        ("main", "passthrough", 1),
        ("main", "etcd", 3),
    ],
)
def test_a_killed_server_loses_no_call_where_clients_retry(everywhere: Everywhere, where: str, mode: str, serving: int) -> None:
    """One that serves, of course. Its container starts again in the same pod."""
    deployed: Deployed = getattr(everywhere, where)
    deployed.setting("client", CLIENT__RETRY__ENABLED="true")
    deployed.make("deploy", DISCOVERY=mode)
    with deployed.followed() as logs:
        logs.wait_even(serving)
        killed = f"{deployed.project.name}-{next(iter(logs.seconds[-1].served))}"
        assert killed in deployed.make("kill", f"POD={killed}")
        deployed.kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s", f"pod/{killed}")
        logs.wait_even(serving)
        assert logs.failed() == {}


def test_the_account_of_the_client_may_read_slices_and_nothing_else(everywhere: Everywhere) -> None:
    """What `kubectl auth can-i --list` tells in the mode kubernetes, beside what every account may."""
    there = everywhere.elsewhere

    def rights(account: str) -> set[str]:
        who = f"--as=system:serviceaccount:{there.namespace}:{account}"
        groups = ("--as-group=system:serviceaccounts", "--as-group=system:authenticated")
        lines = there.kubectl("auth", "can-i", "--list", who, *groups).splitlines()[1:]
        return {" ".join(line.split()) for line in lines}

    client = rights(f"{there.project.name}-client") - rights("default")
    assert client == {"endpointslices.discovery.k8s.io [] [] [get list watch]"}
    assert rights(f"{there.project.name}-server") == rights("default")


def an_etcd_of_ones_own(deployed: Deployed, folder: Path) -> None:
    """Beside the project: TLS, and a user who may touch the keys of this deployment only; and the Secret that tells the pods."""
    authority = trustme.CA()
    certificate = authority.issue_cert("own-etcd")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    deployed.kubectl("create", "secret", "tls", "own-etcd", f"--cert={folder / 'tls.crt'}", f"--key={folder / 'tls.key'}")
    told = ("--from-literal=username=pair", "--from-literal=password=secret", f"--from-file={folder / 'ca.crt'}")
    deployed.kubectl("create", "secret", "generic", f"{deployed.project.name}-etcd", *told)
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


def test_an_etcd_of_ones_own_is_used_with_tls_and_a_user(everywhere: Everywhere, tmp_path: Path) -> None:
    """Its address in the overlay, its authority and the user in a Secret, as the docs say."""
    there = everywhere.elsewhere
    an_etcd_of_ones_own(there, tmp_path)
    place = there.project / "deploy" / "overlays" / "etcd-external" / "etcd.env"
    place.write_text(place.read_text().replace("https://etcd.example.com:2379", "https://own-etcd:2379"))
    switch(there, "etcd-external", 3)


def test_the_image_holds_no_tool_and_its_user_has_a_number(everywhere: Everywhere) -> None:
    """No pip, no compiler; a root that cannot be written."""
    main = everywhere.main
    program = "import importlib.util, os, shutil; print(importlib.util.find_spec('pip'), *map(shutil.which, ('pip', 'pip3', 'gcc', 'cc')), os.getuid(), os.access('/app', os.W_OK))"
    assert main.kubectl("exec", name_of(main), "--", "python", "-c", program).split() == ["None"] * 5 + ["65532", "False"]
    if TOOL == "buildah":
        config = json.loads(subprocess.run([TOOL, "inspect", "--type", "image", IMAGE], capture_output=True, check=True).stdout)[
            "OCIv1"
        ]["config"]
        assert (config["User"], config["StopSignal"], config["Entrypoint"]) == ("65532:65532", "SIGTERM", ["python"])
        assert config["Labels"]["org.opencontainers.image.title"] == main.project.name


def name_of(deployed: Deployed) -> str:
    return str(deployed.pods("server")[0]["metadata"]["name"])


def test_a_dry_run_changes_nothing_and_a_diff_tells_the_difference(everywhere: Everywhere) -> None:
    """Asked of the API server, which accepts it."""
    main = everywhere.main
    before = main.kubectl(
        "get", "deployments,configmaps", "-l", main.selector, "-o", "jsonpath={.items[*].metadata.resourceVersion}"
    )
    said = main.make("deploy", DISCOVERY="dns", DRY_RUN="1")
    assert "CLIENT__TARGET: dns-poll:///" in said
    assert "the API server has accepted all of it" in said
    assert "no difference" in main.make("diff", DISCOVERY="etcd")
    assert "dns-poll:///" in main.make("diff", DISCOVERY="dns")
    for target, arguments in (("scale", ("N=9",)), ("restart", ()), ("kill", ()), ("undeploy", ())):
        assert "would" in main.make(target, *arguments, DRY_RUN="1")
    after = main.kubectl(
        "get", "deployments,configmaps", "-l", main.selector, "-o", "jsonpath={.items[*].metadata.resourceVersion}"
    )
    assert after == before


def test_undeploying_leaves_nothing_and_touches_no_neighbour(everywhere: Everywhere) -> None:
    """Neither in its namespace nor the same project elsewhere."""
    everywhere.main.make("undeploy")
    kinds = ",".join(kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split())
    assert everywhere.main.kubectl("get", kinds, "-l", everywhere.main.selector, "-o", "name") == ""
    assert "nothing of greeter-pair is in the namespace" in everywhere.main.make("status")
    for deployed in (everywhere.neighbour, everywhere.elsewhere):
        with deployed.followed() as logs:
            logs.wait_even(3)
            assert logs.failed() == {}
