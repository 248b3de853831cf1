"""`make deploy` and its like on a real cluster: what they refuse, with which reason, and what they show of pods that do not start."""

import contextlib
import itertools
import json
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bake import SLUG

from .deployed import Deployed, kubectl

pytestmark = pytest.mark.cluster

KINDS = ("deployments", "statefulsets", "services", "serviceaccounts", "roles", "rolebindings", "networkpolicies", "pdb", "hpa")

AWAY = 30.0
"""Seconds within which a cluster that does not answer must have been reported."""

PULLED = 60.0
"""Seconds within which an image that cannot be pulled must have been reported."""

PRINTED = rb"\x1b]0;owned\x07 \xc2\x9b2J \xff \xe2\x80\xae evil \x1b[2J"
"""What a pod prints, as Python's source: escape sequences, one of them by a C1 control in UTF-8; no UTF-8; a change of direction."""

ESCAPED = r"\x1b]0;owned\x07 \x9b2J \xff \u202e evil \x1b[2J"
PROGRAM = f"import sys; sys.stdout.buffer.write(b'{PRINTED.decode()}\\n'); sys.stdout.flush()"


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    """Why make has not deployed, without a traceback."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("make: ***"))


@pytest.fixture
def nowhere(project: Path, image: str) -> Deployed:
    """In no namespace."""
    return Deployed(project, "", image)


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """silent: accepts connections, and answers nothing.  full: accepts none, as an address that leads nowhere."""
    with contextlib.ExitStack() as stack:
        listening = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)) for name in ("silent", "full")}
        stack.enter_context(socket.create_connection(listening["full"].getsockname()))
        yield {name: f"https://127.0.0.1:{one.getsockname()[1]}" for name, one in listening.items()}


REASONS = {
    "full": "timed out after 20.* seconds; is kubectl installed, KUBECONFIG right, and the cluster up",
    "silent": "handshake timeout|timed out after 20.* seconds",
    "https://127.0.0.1:9": "refused",
    "https://nowhere.invalid:6443": "no such host|lookup nowhere.invalid",
    "": "localhost:8080 was refused",
}
"""By what is away."""


def test_a_cluster_that_is_away_is_reported_in_time(nowhere: Deployed, tmp_path: Path, servers: dict[str, str]) -> None:
    """An address that leads nowhere, a server that never answers, a refused port, a name that is none, no kubeconfig."""

    def said(case: tuple[str, str]) -> tuple[str, str]:
        (server, target), file = case, tmp_path / f"config-{abs(hash(case))}"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "away", "users": [{"name": "one", "user": {"token": "none"}}],
            "clusters": [{"name": "away", "cluster": {"server": servers.get(server, server)}}],
            "contexts": [{"name": "away", "context": {"cluster": "away", "user": "one"}}],
        }  # fmt: skip
        file.write_text(json.dumps(config))
        return server, refused(nowhere.ask(target, seconds=AWAY, KUBECONFIG=str(file) if server else "/dev/null"))

    with ThreadPoolExecutor(2 * len(REASONS)) as pool:
        for server, sentence in pool.map(said, itertools.product(REASONS, ("deploy", "undeploy"))):
            assert sentence.startswith("make: ")
            assert re.search(REASONS[server], sentence)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"DISCOVERY": "kubernets"},
            "there is no deploy/overlays/kubernets; ENV or DISCOVERY must be one of dns, etcd, etcd-external, kubernetes",
        ),
        ({"TIMEOUT": "soon"}, "TIMEOUT=soon is not a number of seconds"),
        (
            {"IMAGE": "", "LOAD_IMAGE": ""},
            "names no image registry; set newName in deploy/components/image, or IMAGE, or LOAD_IMAGE",
        ),
        ({"NAMESPACE": "no-such-namespace"}, 'namespaces "no-such-namespace" not found'),
    ],
)
def test_what_cannot_be_done_is_refused(nowhere: Deployed, given: dict[str, str], words: str) -> None:
    """With the reason, before an image is built."""
    done = nowhere.ask("deploy", seconds=AWAY, **given)
    assert words in refused(done)
    assert done.stdout == ""


def test_a_broken_overlay_is_refused_with_kubectls_own_reason(deployments: dict[str, Deployed]) -> None:
    """A file that an overlay names is missing."""
    there = deployments["dns"]
    missing = there.project / "deploy" / "client" / "account.yaml"
    text = missing.read_text()
    missing.unlink()
    try:
        said = refused(there.ask("deploy"))
    finally:
        missing.write_text(text)
    assert re.search(r"accumulating resources.*account\.yaml.*no such file", said)


def test_an_image_that_cannot_be_pulled_is_reported_and_the_old_pods_stay(deployments: dict[str, Deployed]) -> None:
    """With its events; the next good deployment mends it."""
    there = deployments["etcd-external"]
    before = there.names("server")
    done = there.ask("deploy", seconds=PULLED, IMAGE="localhost/nowhere:1")
    assert "is not rolled out" in refused(done)
    assert 'image "localhost/nowhere:1"' in done.stdout
    assert re.search("Warning +Failed", done.stdout)
    assert before <= there.names("server")
    assert "not changed" not in there.make("deploy")
    assert there.names("server") == before


def test_the_last_lines_of_a_pod_that_crashes_are_shown_without_control_characters(deployments: dict[str, Deployed]) -> None:
    """The next good deployment mends it, too."""
    there = deployments["etcd-external"]
    before = there.names("server")
    path = there.project / "deploy" / "server" / "deployment.yaml"
    text = path.read_text()
    there.edit("server/deployment.yaml", r"args: .*", lambda _: "args: " + json.dumps(["-c", f"{PROGRAM}; sys.exit(3)"]))
    done = there.ask("deploy")
    path.write_text(text)
    assert "deployment.apps/greeter-server is not rolled out" in refused(done)
    assert ESCAPED in done.stdout.splitlines()
    assert "Back-off restarting failed container" in done.stdout
    assert (done.stdout + done.stderr).isprintable() or not set("\x1b\x9b\u202e") & set(done.stdout + done.stderr)
    there.make("deploy")
    assert there.names("server") == before


def test_logs_are_shown_without_control_characters(deployments: dict[str, Deployed]) -> None:
    """Those of all pods of the project, each line with its pod."""
    there = deployments["etcd-external"]
    labels = {f"app.kubernetes.io/{key}": there.project.name for key in ("instance", "part-of")}
    container = {"name": "one", "image": there.image, "args": ["-c", PROGRAM]}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "noisy", "labels": labels},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }  # fmt: skip
    there.kubectl("create", "-f", "-", given=pod)
    there.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/noisy")
    wanted = {"noisy", *there.names("server"), *there.names("load-generator")}
    lines: list[str] = []
    with there.started("logs") as printed:
        while wanted:
            lines.append(next(printed))
            wanted -= {name for name in wanted if f"pod/{name}/" in lines[-1]}
    there.kubectl("delete", "pod", "noisy")
    assert f"[pod/noisy/one] {ESCAPED}\n" in lines


def test_status_and_diff_show_what_is_there_and_what_would_change(deployments: dict[str, Deployed]) -> None:
    """By the same overlay without a word, by another one with what differs; nothing is changed."""
    there = deployments["dns"]
    before = there.deployment("server")["metadata"]["resourceVersion"]
    status = there.make("status")
    for name in ("deployment.apps/greeter-server", "service/greeter-server-headless", "pod/greeter-load-generator-"):
        assert name in status
    assert there.make("diff") == ""
    different = there.ask("diff", DISCOVERY="etcd")
    assert different.returncode != 0
    assert re.search(r"^\+ +value: etcd:///greeter-server", different.stdout, re.MULTILINE)
    assert there.deployment("server")["metadata"]["resourceVersion"] == before


def test_a_deployment_with_tls_keeps_it(deployments: dict[str, Deployed]) -> None:
    """Without a variable the same overlay is deployed again; one without TLS is refused in one sentence, and nothing is changed."""
    there = deployments["production"]

    def seen() -> Any:
        return [there.deployment(role)["metadata"]["generation"] for role in ("server", "load-generator")]

    there.make("deploy")
    assert there.environment("server")["GREETER__TLS__MODE"] == "mtls"
    before = seen()
    for overlay in ("kubernetes", "dns"):
        said = refused(there.ask("deploy", DISCOVERY=overlay))
        assert said == (
            f"make: production runs with TLS, and deploy/overlays/{overlay} would turn it off; add components/mtls to it"
        )
    assert seen() == before
    assert there.environment("server")["GREETER__TLS__MODE"] == "mtls"


def test_an_image_by_digest_is_deployed_as_it_lies(project: Path, image: str, tmp_path: Path) -> None:
    """IMAGE= would not be used, and is refused; nothing is built for it. Undeploying does not mind."""
    copy = shutil.copytree(project, tmp_path / SLUG)
    there = Deployed(copy, "default", image)
    there.edit("overlays/production/kustomization.yaml", "name: localhost/.*", f"name: {image.rpartition(':')[0]}")
    said = refused(there.ask("deploy", ENV="production"))
    assert said == f"make: IMAGE={image} would not be used: deploy/overlays/production names an image itself; change it there"
    namespace = f"cluster-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    try:
        there = Deployed(copy, namespace, "")
        there.kubectl("create", "quota", "no-pods", "--hard=pods=0")
        done = there.ask("deploy", ENV="production", TIMEOUT="1")
        assert "is not rolled out" in refused(done)
        assert re.search("Warning +FailedCreate .*exceeded quota: no-pods", done.stdout)
        assert "STEP" not in done.stdout + done.stderr  # of a build
        spec = there.deployment("server")["spec"]["template"]["spec"]
        assert re.fullmatch(r"registry\.example\.com/team/greeter@sha256:0{64}", spec["containers"][0]["image"])
        assert "deleted" in there.make("undeploy", IMAGE=image)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def empty(project: Path, image: str, tmp_path: Path) -> Iterator[Deployed]:
    """A project of the test's own that asks for no pods, in a new namespace."""
    there = Deployed(shutil.copytree(project, tmp_path / SLUG), f"cluster-{uuid.uuid4().hex[:8]}", image)
    for role in ("server", "load-generator"):
        there.edit(f"{role}/deployment.yaml", "replicas: .", "replicas: 0")
    kubectl("create", "namespace", there.namespace)
    yield there
    kubectl("delete", "namespace", there.namespace, "--wait=false")


def test_an_environment_may_name_its_namespace(empty: Deployed) -> None:
    """It is deployed there, whatever the kubeconfig's; another NAMESPACE is refused; and what is there is not touched from elsewhere, nor
    is the namespace, which the overlay may contain."""
    folder = empty.project / "deploy" / "overlays" / "elsewhere"
    shutil.copytree(folder.parent / "kubernetes", folder)
    there = Deployed(empty.project, f"{empty.namespace}-elsewhere", empty.image)
    empty.edit("overlays/elsewhere/kustomization.yaml", "^kind: Kustomization", rf"\g<0>\nnamespace: {there.namespace}")
    empty.edit("overlays/elsewhere/kustomization.yaml", "overlay: kubernetes", "overlay: elsewhere")
    empty.edit("overlays/elsewhere/kustomization.yaml", "^resources:", r"\g<0>\n  - namespace.yaml")
    itself = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": there.namespace}}
    (folder / "namespace.yaml").write_text(json.dumps(itself))
    kubectl("create", "namespace", there.namespace)
    try:
        there.make("deploy", ENV="elsewhere", NAMESPACE="")
        assert f"{SLUG}/overlay" in kubectl("get", "namespace", there.namespace, "-o", "yaml")
        before = there.kubectl("get", ",".join(KINDS), "-o", "yaml", "-l", f"{SLUG}/overlay=elsewhere")
        assert "kind: Role" in before
        assert "does not match the namespace" in refused(empty.ask("deploy", ENV="elsewhere"))
        assert empty.kubectl("get", "deployments", "-o", "name") == ""
        empty.make("deploy", DISCOVERY="kubernetes")
        empty.make("deploy", DISCOVERY="passthrough")
        assert empty.kubectl("get", "roles", "-o", "name") == ""
        empty.make("undeploy")
        assert empty.kubectl("get", ",".join(KINDS), "-o", "name", "-l", f"{SLUG}/overlay") == ""
        assert there.kubectl("get", ",".join(KINDS), "-o", "yaml", "-l", f"{SLUG}/overlay=elsewhere") == before
        there.make("undeploy", ENV="elsewhere", NAMESPACE="")
        assert there.kubectl("get", ",".join(KINDS), "-o", "name", "-l", f"{SLUG}/overlay") == ""
        assert "Active" in kubectl("get", "namespace", there.namespace)
    finally:
        kubectl("delete", "namespace", there.namespace, "--wait=false")


def test_a_kind_that_the_cluster_does_not_have_hinders_neither_a_change_of_mode_nor_the_end(empty: Deployed) -> None:
    """An overlay that is not used names one; what it names besides is deleted as ever."""
    with (empty.project / "deploy" / "components" / "rbac-client" / "role.yaml").open("a") as file:
        file.write("---\napiVersion: example.com/v1\nkind: Unknown\nmetadata: {name: greeter-unknown}\n")
    empty.make("deploy", DISCOVERY="etcd", ETCD_IMAGE="localhost/etcd:3.6")
    assert 'no matches for kind "Unknown"' in refused(empty.ask("deploy", DISCOVERY="kubernetes"))
    empty.make("deploy", DISCOVERY="passthrough")
    assert empty.kubectl("get", "statefulsets", "-o", "name") == ""
    empty.make("undeploy")
    assert empty.kubectl("get", ",".join(KINDS), "-o", "name", "-l", f"{SLUG}/overlay") == ""


def test_an_image_of_etcd_that_cannot_be_pulled_is_reported_and_replaced(project: Path, image: str, tmp_path: Path) -> None:
    """At the first deployment, in which clients wait for it; the next one, with the right image, mends it."""
    there = Deployed(shutil.copytree(project, tmp_path / SLUG), f"cluster-{uuid.uuid4().hex[:8]}", image)
    kubectl("create", "namespace", there.namespace)
    try:
        done = there.ask("deploy", seconds=PULLED, DISCOVERY="etcd", ETCD_IMAGE="localhost/no-etcd:1")
        assert "statefulset.apps/greeter-etcd is not rolled out" in refused(done)
        assert re.search('Warning +Failed .*image "localhost/no-etcd:1"', done.stdout)
        there.make("deploy")
    finally:
        kubectl("delete", "namespace", there.namespace, "--wait=false")


@pytest.mark.parametrize(("manager", "taken"), [("kubectl-edit", True), ("helm", False), ("kustomize-controller", False)])
def test_fields_are_taken_from_people_and_from_no_other_tool(empty: Deployed, manager: str, taken: bool) -> None:
    """What a person has changed by kubectl is undone; what a tool has set is a conflict, which is shown as kubectl has it."""
    empty.make("deploy", DISCOVERY="dns")
    name = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"{SLUG}-server"}}
    given = {**name, "spec": {"minReadySeconds": 7}}
    empty.kubectl("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-", given=given)
    done = empty.ask("deploy")
    assert (done.returncode == 0) is taken
    assert (empty.deployment("server")["spec"]["minReadySeconds"] == 7) is not taken
    if not taken:
        assert re.search(rf'conflict with "{manager}".*: .spec.minReadySeconds', refused(done))


def test_an_autoscaler_that_would_leave_one_server_is_refused(empty: Deployed) -> None:
    """Until the number has another owner, as the page on operating says."""
    folder = empty.project / "deploy" / "overlays" / "scaled"
    shutil.copytree(folder.parent / "dns", folder)
    empty.edit("overlays/scaled/kustomization.yaml", "^components:", r"\g<0>\n  - ../../components/autoscale")
    empty.edit("overlays/scaled/kustomization.yaml", "overlay: dns", "overlay: scaled")
    empty.kubectl("create", "quota", "no-pods", "--hard=pods=0")
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"{SLUG}-server"}, "spec": {"replicas": 3}}

    def replicas(text: str) -> int:
        empty.edit("server/deployment.yaml", "replicas: .", f"replicas: {text}")
        empty.ask("deploy", DISCOVERY="dns", TIMEOUT="1")
        return int(empty.deployment("server")["spec"]["replicas"])

    assert replicas("3") == 3
    before = empty.deployment("server")["metadata"]["generation"]
    assert refused(empty.ask("deploy", ENV="scaled")) == (
        "make: one replica would be left; give the number to the autoscaler first: docs/operating.md, Replicas"
    )
    assert empty.deployment("server")["metadata"]["generation"] == before
    assert empty.kubectl("get", "hpa", "-o", "name") == ""
    empty.kubectl("apply", "--server-side", "--field-manager=autoscaler", "-f", "-", given=owner)
    assert "is not rolled out" in refused(empty.ask("deploy", ENV="scaled", TIMEOUT="1"))
    assert empty.deployment("server")["spec"]["replicas"] == 3
    assert empty.kubectl("get", "hpa", "-o", "name") != ""
