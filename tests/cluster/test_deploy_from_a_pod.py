"""`make deploy` from a pod, as a CI runner's job: no kubeconfig, no virtual environment, and rights in one namespace only."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import SLUG

from .conftest import TOOL
from .deployed import ETCD_IMAGE, Deployed, clean_environment, kubectl

pytestmark = pytest.mark.cluster

DOCKERFILE = """\
ARG BASE_IMAGE=docker.io/library/python:3.11-slim
FROM ${BASE_IMAGE}
RUN apt-get update -qq && apt-get install -qq --no-install-recommends make >/dev/null && rm -rf /var/lib/apt/lists/*
COPY kubectl /usr/local/bin/kubectl
COPY project /project
WORKDIR /project
ENTRYPOINT ["python3", "-c", "import signal; signal.pause()"]
"""


@pytest.fixture
def runner(project: Path, image: str, tmp_path: Path) -> Iterator[Deployed]:
    """A pod with the project, whose account is an administrator of its own namespace and of nothing else."""
    where = f"cluster-{uuid.uuid4().hex[:8]}"
    made = f"localhost/runner:{where}"
    program = shutil.which("kubectl")
    assert program is not None
    shutil.copy(program, tmp_path / "kubectl")
    shutil.copytree(project, tmp_path / "project")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    there = Deployed(tmp_path / "project", where, made)
    build(tmp_path, made)
    there.make("load")
    kubectl("create", "namespace", where)
    try:
        there.kubectl("create", "serviceaccount", "runner")
        there.kubectl("create", "rolebinding", "runner", "--clusterrole=admin", f"--serviceaccount={where}:runner")
        container = {"name": "runner", "image": made, "imagePullPolicy": "IfNotPresent"}
        spec = {"serviceAccountName": "runner", "containers": [container], "terminationGracePeriodSeconds": 0}
        there.kubectl(
            "create", "-f", "-", given={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner"}, "spec": spec}
        )
        there.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/runner")
        yield Deployed(project, where, image)
    finally:
        kubectl("delete", "namespace", where, "--wait=false")
        subprocess.run([TOOL, "rmi", made], capture_output=True)


def build(folder: Path, name: str) -> None:
    environment = clean_environment(BUILDAH_LAYERS="true")
    base = [f"--build-arg=BASE_IMAGE={environment['BASE_IMAGE']}"] if "BASE_IMAGE" in environment else []
    command = [TOOL, "build", *base, "--tag", name, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_a_pod_deploys_changes_the_mode_and_undeploys(runner: Deployed) -> None:
    """By its own service account, in its own namespace, which nothing names; of others it may see nothing."""

    def make(*arguments: str) -> str:
        shell = f"umask 077; make -s {' '.join(arguments)} IMAGE={runner.image} ETCD_IMAGE={ETCD_IMAGE}"
        return runner.kubectl("exec", "runner", "--", "sh", "-c", shell)

    may = runner.kubectl("exec", "runner", "--", "sh", "-c", "kubectl auth can-i get pods --namespace default || true")
    assert may.strip() == "no"
    assert 'deployment "greeter-server" successfully rolled out' in make("deploy", "DISCOVERY=kubernetes")
    with runner.followed() as logs:
        logs.wait_even(3)
        said = make("deploy", "DISCOVERY=etcd")
        assert 'role.rbac.authorization.k8s.io "greeter-client" deleted' in said
        [client] = runner.names("load-generator")
        logs.wait_for(client)
        logs.wait_even(3)
    make("undeploy")
    kinds = "deployments,statefulsets,services,serviceaccounts,roles,rolebindings,networkpolicies,pdb"
    left = runner.kubectl("get", kinds, "-o", "name").split()
    assert [name for name in left if SLUG in name] == []
    assert runner.kubectl("get", "pods", "-o", "name") == "pod/runner\n"
