"""The mtls component on a real cluster: certificates and their CA are replaced under load, and no call fails."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.bake import SLUG

from .conftest import IMAGE
from .deployed import Deployed, kubectl, variables

pytestmark = pytest.mark.cluster

DEADLINE = 120.0
"""Seconds for whatever must happen: Kubernetes renews a mounted Secret within a minute and a half."""

RATE = 100


class Deployment(Deployed):
    """A project deployed with COMPONENTS=mtls into a namespace of its own."""

    def renew(self, *arguments: str) -> None:
        """New certificates, in files and in the cluster; `make certs` by an environment that is there already."""
        command = [sys.executable, "-B", "-m", "deploy.certificates", "--namespace", self.namespace, *arguments]
        environment = {**os.environ, "PYTHONPATH": "."}
        done = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.make("secrets")
        # A change to the pod makes the kubelet look at once; by itself it would within a minute.
        self.kubectl("annotate", "pods", "--all", "--overwrite", f"renewed={time.time()}")

    def lines(self, pod: str) -> list[dict[str, Any]]:
        """What a pod has logged."""
        return [json.loads(line) for line in self.kubectl("logs", pod).splitlines() if line.startswith("{")]

    def wait_until_renewed(self, times: int) -> None:
        """Until each pod has taken up new files so often, and calls have been made since."""
        until = time.monotonic() + DEADLINE
        waiting = {pod["metadata"]["name"] for side in ("server", "client") for pod in self.pods(side)}
        while waiting:
            assert time.monotonic() < until, f"not renewed: {waiting}"
            waiting = {pod for pod in waiting if len(renewals(self.lines(pod))) < times}
        client, before = self.pods("client")[0]["metadata"]["name"], self.served()
        while self.served() < before + 3 * RATE:
            assert time.monotonic() < until, self.lines(client)[-3:]

    def served(self) -> int:
        """Calls that were answered so far."""
        return sum(
            sum(line["served"].values()) for line in self.lines(self.pods("client")[0]["metadata"]["name"]) if "served" in line
        )


def renewals(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if line["message"].startswith("new TLS files")]


@pytest.fixture(scope="module")
def deployed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """At 100 calls a second, and nothing is retried."""
    copy = shutil.copytree(project, tmp_path_factory.mktemp("mtls") / SLUG)
    made = Deployment(copy, f"mtls-{uuid.uuid4().hex[:8]}", IMAGE)
    made.setting("client", **variables(CLIENT__RATE=str(RATE), CLIENT__RETRY__ATTEMPTS="1"))
    kubectl("create", "namespace", made.namespace)
    try:
        made.renew()
        made.make("deploy", DISCOVERY="kubernetes", COMPONENTS="mtls")
        yield made
    finally:
        kubectl("delete", "namespace", made.namespace, "--wait=false")


def call(address: str, certificates: Path) -> str:
    """Who answers a client with these certificates, by gRPC's own means."""
    ca, key, certificate = ((certificates / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
    options = [("grpc.default_authority", f"{SLUG}-server"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options) as channel:
        greet: Any = channel.unary_unary("/greeter.v1.GreeterService/Greet")
        return bytes(greet(b"", timeout=10)).decode(errors="replace")


def test_certificates_and_their_ca_are_replaced_under_load_and_no_call_fails(deployed: Deployment) -> None:
    """A certificate, then the CA, then the next one, which no longer trusts the first: what that had issued is refused in the
    end. No pod was restarted, and nothing was retried."""
    first = deployed.project / "first"
    (deployed.project / "certs" / "client").rename(first)
    pods = {pod["metadata"]["uid"] for side in ("server", "client") for pod in deployed.pods(side)}
    for times, arguments in enumerate(((), ("--new-ca",), ("--new-ca",)), 1):
        deployed.renew(*arguments)
        deployed.wait_until_renewed(times)
    client = deployed.pods("client")[0]["metadata"]["name"]
    lines = [line for line in deployed.lines(client) if "served" in line]
    assert sum(sum(line["errors"].values()) + line["skipped"] for line in lines) == 0
    assert {server for line in lines for server in line["served"]} == {pod["metadata"]["name"] for pod in deployed.pods("server")}
    assert {pod["metadata"]["uid"] for side in ("server", "client") for pod in deployed.pods(side)} == pods
    address = f"{deployed.pods('server')[0]['status']['podIP']}:50051"
    assert "Hello" in call(address, deployed.project / "certs" / "client")
    with pytest.raises(grpc.RpcError) as error:
        call(address, first)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_kubelets_probes_need_no_certificate_and_nothing_else_gets_in_without(deployed: Deployment) -> None:
    """All pods are ready by the port for health, on which nothing else is offered; the other refuses plaintext."""
    pod = deployed.pods("server")[0]
    assert all(status["ready"] for status in pod["status"]["containerStatuses"])
    for port, code in ((50053, grpc.StatusCode.UNIMPLEMENTED), (50051, grpc.StatusCode.UNAVAILABLE)):
        with grpc.insecure_channel(f"{pod['status']['podIP']}:{port}") as channel, pytest.raises(grpc.RpcError) as error:
            greet: Any = channel.unary_unary("/greeter.v1.GreeterService/Greet")
            greet(b"", timeout=10)
        assert error.value.code() is code
