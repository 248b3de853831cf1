"""A repository that is only the server's, on a real cluster; its server may call others by the Kubernetes API."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import SLUG

from .conftest import IMAGE
from .deployed import Deployed, kubectl

pytestmark = pytest.mark.cluster


@pytest.fixture
def server_only(project: Path, tmp_path: Path) -> Iterator[Deployed]:
    """Less the client's folder and its line in each overlay, plus one line for the server's own rights."""
    made = Deployed(shutil.copytree(project, tmp_path / SLUG), f"server-{uuid.uuid4().hex[:8]}", IMAGE)
    shutil.rmtree(made.project / "deploy" / "client")
    for path in made.project.glob("deploy/overlays/*/kustomization.yaml"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join(line for line in lines if line.strip() not in ("- ../../client", "- ../../components/rbac-client"))
        )
    with (made.project / "deploy" / "server" / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../components/rbac-server\n")
    yield made
    kubectl("delete", "namespace", made.namespace, "--ignore-not-found", "--wait=false")


def test_a_server_without_a_client_is_deployed_changed_and_undeployed(server_only: Deployed) -> None:
    """Nothing waits for a client; and the server's account has the right that its line asks for."""
    server_only.make("deploy", DISCOVERY="kubernetes")
    assert len(server_only.pods("server")) == 3
    assert server_only.pods("client") == []
    account = f"--as=system:serviceaccount:{server_only.namespace}:{SLUG}-server"
    assert server_only.kubectl("auth", "can-i", "watch", "endpointslices.discovery.k8s.io", account).strip() == "yes"
    mounts = server_only.pods("server")[0]["spec"]["containers"][0]["volumeMounts"]
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in {mount["mountPath"] for mount in mounts}
    server_only.make("scale", "N=1")
    server_only.make("restart")
    server_only.make("deploy", DISCOVERY="passthrough")
    assert len(server_only.pods("server")) == 1
    server_only.make("undeploy")
    assert server_only.pods("server") == []
