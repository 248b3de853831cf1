"""What docs/operating.md says of replicas, rollback, and rights, by its own commands, on a cluster. No pod runs: a quota keeps them away."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bake import SLUG, bake

pytestmark = pytest.mark.cluster

SERVER = f"deployment/{SLUG}-server"


@dataclass(frozen=True)
class Cluster:
    """A namespace without pods, and a project's page and manifests."""

    project: Path
    namespace: str

    def run(self, command: str) -> str:
        """A line for a shell, as the page has it. kubectl works in the namespace."""
        function = f'kubectl() {{ command kubectl --namespace {self.namespace} "$@"; }}\n'
        done = subprocess.run(
            ["sh", "-e", "-c", function + command], cwd=self.project, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def from_page(self, start: str) -> str:
        """The commands in the page that begin so, up to the end of the block's paragraph or of the code in the line."""
        page = (self.project / "docs/operating.md").read_text()
        found = re.findall(rf"(?:^|`)({re.escape(start)}(?:\|\n|[^`\n])*)", page, re.MULTILINE)
        assert len(found) == 1, found
        return str(found[0])

    def replicas(self) -> tuple[int, bool]:
        """The number, and whether a client-side `kubectl apply` would set it."""
        found = json.loads(self.run(f"kubectl get {SERVER} --output=json"))
        last = found["metadata"].get("annotations", {}).get("kubectl.kubernetes.io/last-applied-configuration", "{}")
        return found["spec"]["replicas"], "replicas" in json.loads(last).get("spec", {})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with an overlay that has an autoscaler."""
    made = bake(tmp_path_factory.mktemp("operating"))
    scaled = made / "deploy/overlays/scaled"
    scaled.mkdir()
    lines = "resources: [../kubernetes]\ncomponents: [../../components/autoscale]\n"
    (scaled / "kustomization.yaml").write_text(lines)
    return made


@pytest.fixture
def cluster(project: Path) -> Iterator[Cluster]:
    """Deleted afterwards."""
    made = Cluster(project, f"operating-{uuid.uuid4().hex[:6]}")
    made.run(f"command kubectl create namespace {made.namespace}; kubectl create quota none --hard=pods=0")
    yield made
    made.run(f"command kubectl delete namespace {made.namespace} --wait=false")


APPLY = {
    "make": "kubectl apply --server-side --field-manager=kubectl-make -k deploy/overlays/{}",
    "flux": "kubectl apply --server-side --field-manager=kustomize-controller --force-conflicts -k deploy/overlays/{}",
    "kubectl": "kubectl apply -k deploy/overlays/{}",
}
"""How each applies an overlay."""


@pytest.mark.parametrize("tool", APPLY)
def test_an_autoscaler_is_turned_on_without_losing_a_server(cluster: Cluster, tool: str) -> None:
    """After the page's command; without it, one server would remain."""
    cluster.run(APPLY[tool].format("kubernetes"))
    cluster.run(cluster.from_page("kubectl apply view-last-applied" if tool == "kubectl" else "echo '{apiVersion: apps/v1"))
    cluster.run(APPLY[tool].format("scaled"))
    assert cluster.replicas() == (3, False)
    cluster.run(APPLY[tool].format("scaled"))
    assert cluster.replicas() == (3, False)


@pytest.mark.parametrize("tool", APPLY)
def test_without_the_command_one_server_would_remain(cluster: Cluster, tool: str) -> None:
    """So the page is right to ask for it."""
    cluster.run(APPLY[tool].format("kubernetes"))
    cluster.run(APPLY[tool].format("scaled"))
    assert cluster.replicas() == (1, False)


def test_an_autoscaler_is_turned_off(cluster: Cluster) -> None:
    """By the page's commands, with the number that the overlay has."""
    cluster.run(APPLY["make"].format("kubernetes"))
    cluster.run(cluster.from_page("echo '{apiVersion: apps/v1"))
    cluster.run(APPLY["make"].format("scaled"))
    cluster.run(f"""kubectl patch hpa {SLUG}-server --type=merge --patch '{{"spec": {{"minReplicas": 4}}}}'""")
    cluster.run(f"kubectl wait {SERVER} --for=jsonpath='{{.spec.replicas}}'=4 --timeout=60s")
    for start in ("kubectl delete hpa", f"kubectl scale {SERVER} "):
        cluster.run(cluster.from_page(start).replace("--replicas=5", "--replicas=3"))
    cluster.run(APPLY["make"].format("kubernetes"))
    assert cluster.replicas() == (3, False)


def test_clients_are_replaced_before_servers(cluster: Cluster) -> None:
    """By the page's commands for leaving a mode in which clients see new servers late: the servers stay as they are."""
    cluster.run(APPLY["make"].format("native-dns"))
    block = cluster.from_page("DISCOVERY=kubernetes python3").replace("python3", f"NAMESPACE={cluster.namespace} python3")
    cluster.run(block)
    found = {each["metadata"]["name"]: each for each in json.loads(cluster.run("kubectl get deployments --output=json"))["items"]}
    assert found[f"{SLUG}-server"]["metadata"]["generation"] == 1
    client = found[f"{SLUG}-load-generator"]["spec"]["template"]["spec"]
    targets = [entry["value"] for entry in client["containers"][0]["env"] if entry["name"].endswith("CLIENT__TARGET")]
    assert targets == [f"kubernetes:///{SLUG}-server:grpc"]
    assert client["automountServiceAccountToken"]


def test_the_command_without_make_removes_what_a_client_side_apply_has_left(cluster: Cluster) -> None:
    """A setting of another overlay."""
    cluster.run(APPLY["kubectl"].format("etcd"))
    cluster.run(cluster.from_page("kubectl apply --server-side --field-manager=kubectl-make --force-conflicts"))
    env = json.loads(cluster.run(f"kubectl get {SERVER} --output=json"))["spec"]["template"]["spec"]["containers"][0]["env"]
    assert not [entry["name"] for entry in env if "REGISTRATION__TARGET" in entry["name"]]


def test_a_client_side_apply_after_a_server_side_one_leaves_settings_of_the_mode_before(cluster: Cluster) -> None:
    """So the page asks for one or the other."""
    cluster.run(APPLY["make"].format("etcd"))
    cluster.run(APPLY["kubectl"].format("kubernetes"))
    assert "REGISTRATION__TARGET" in cluster.run(f"kubectl get {SERVER} --output=yaml")


def test_who_deploys_needs_rights_in_one_namespace_only(cluster: Cluster, tmp_path: Path) -> None:
    """Those of the page's command: the first `make deploy`, with a Role that it makes itself, and `make undeploy`."""
    cluster.run("kubectl create serviceaccount deployer")
    cluster.run(cluster.from_page("kubectl create rolebinding deployer").replace("=ci:", f"={cluster.namespace}:"))
    config = json.loads(cluster.run("kubectl config view --minify --raw --output=json"))
    config["users"][0]["user"] = {"token": cluster.run("kubectl create token deployer")}
    (tmp_path / "config").write_text(json.dumps(config))
    make = f"KUBECONFIG={tmp_path}/config make NAMESPACE={cluster.namespace} IMAGE=localhost/none:1 TIMEOUT=1"
    objects = "kubectl get deployments,networkpolicies,rolebindings --output=name --selector=app.kubernetes.io/part-of"
    assert "is not rolled out" in cluster.run(f"! {make} deploy DISCOVERY=kubernetes 2>&1")
    assert f"rolebinding.rbac.authorization.k8s.io/{SLUG}-client" in cluster.run(objects)
    cluster.run(f"{make} undeploy")
    assert cluster.run(objects) == ""


def test_a_caller_of_another_namespace_may_read_the_endpoints(cluster: Cluster) -> None:
    """With the Role of the overlay and a binding, as the page's file has it."""
    page = (cluster.project / "docs/operating.md").read_text()
    binding = re.findall(r"^```yaml file=deploy/overlays/kubernetes/callers.yaml\n(.*?)```", page, re.MULTILINE | re.DOTALL)[0]
    question = cluster.from_page("kubectl auth can-i list endpointslices")
    cluster.run(f"{APPLY['make'].format('kubernetes')}\n! {question}")
    cluster.run(f"kubectl apply --filename=- <<'END'\n{binding}END\n")
    assert cluster.run(question) == "yes\n"
