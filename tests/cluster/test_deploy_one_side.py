"""A repository that is only the server's, on a real cluster; its server may call others by the Kubernetes API."""

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import SLUG

from .deployed import Deployed, kubectl

pytestmark = pytest.mark.cluster


@pytest.fixture
def server_only(project: Path, image: str, tmp_path: Path) -> Iterator[Deployed]:
    """Less the folders of callers and their lines in each overlay, plus one line for the server's own rights."""
    made = Deployed(shutil.copytree(project, tmp_path / SLUG), f"cluster-{uuid.uuid4().hex[:8]}", image)
    for folder in ("client", "load-generator", "components/rbac-client"):
        shutil.rmtree(made.project / "deploy" / folder)
    for path in made.project.glob("deploy/overlays/*/kustomization.yaml"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not re.search("/(client|load-generator|rbac-client)$", line)))
    with (made.project / "deploy" / "server" / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../components/rbac-server\n")
    kubectl("create", "namespace", made.namespace)
    yield made
    kubectl("delete", "namespace", made.namespace, "--wait=false")


def test_a_server_without_a_client_is_deployed_changed_and_undeployed(server_only: Deployed) -> None:
    """Nothing waits for a client; and the server's account has the right that its line asks for."""
    there = server_only
    there.make("deploy", DISCOVERY="kubernetes")
    [pod, *others] = there.pods("server")
    assert len(others) == 2
    account = f"--as=system:serviceaccount:{there.namespace}:{SLUG}-server"
    assert there.kubectl("auth", "can-i", "watch", "endpointslices.discovery.k8s.io", account).strip() == "yes"
    mounts = {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
    there.make("deploy", DISCOVERY="passthrough")
    assert there.deployment("server")["metadata"]["labels"][f"{SLUG}/overlay"] == "passthrough"
    there.make("undeploy")
    assert there.pods("server") == []
