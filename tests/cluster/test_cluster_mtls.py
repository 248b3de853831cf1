"""The mtls component on a real cluster: certificates and their CA are replaced under load, and no call fails."""

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.bake import SLUG

from .credentials import renew
from .deployed import Deployed

pytestmark = pytest.mark.cluster

DEADLINE = 120.0
"""Seconds for whatever must happen: Kubernetes renews a mounted Secret within a minute and a half."""


def lines(deployed: Deployed, pod: str) -> list[dict[str, Any]]:
    """What a pod has logged."""
    return [json.loads(line) for line in deployed.kubectl("logs", pod).splitlines() if line.startswith("{")]


def renewals(deployed: Deployed, pod: str) -> int:
    """How often it has taken up new files."""
    return sum(line["message"].startswith("new TLS files") for line in lines(deployed, pod))


def renew_and_wait(deployed: Deployed, **variables: str) -> None:
    """Until all pods have taken up new files, and calls have been made since."""
    pods = deployed.names("server") | deployed.names("load-generator")
    before = {pod: renewals(deployed, pod) for pod in pods}
    renew(deployed, **variables)
    until = time.monotonic() + DEADLINE
    while waiting := {pod for pod in pods if renewals(deployed, pod) == before[pod]}:
        assert time.monotonic() < until, f"not renewed: {waiting}"
    with deployed.followed() as logs:
        logs.wait_even(len(deployed.names("server")))


def call(address: str, certificates: Path) -> str:
    """Who answers a client with these certificates, by gRPC's own means."""
    ca, key, certificate = ((certificates / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
    options = [("grpc.default_authority", f"{SLUG}-server"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options) as channel:
        greet: Any = channel.unary_unary("/greeter.v1.GreeterService/Greet")
        return bytes(greet(b"", timeout=10)).decode(errors="replace")


def test_certificates_and_their_ca_are_replaced_under_load_and_no_call_fails(deployments: dict[str, Deployed]) -> None:
    """A certificate, then the CA, then the next one, which no longer trusts the first: what that had issued is refused in the
    end. No pod was restarted."""
    there = deployments["production"]
    first = there.project / "first"
    (there.project / "certs" / "client").rename(first)
    pods = there.names("server") | there.names("load-generator")
    with there.followed() as logs:
        renew_and_wait(there)
        renew_and_wait(there, NEW_CA="1")
        renew_and_wait(there, NEW_CA="1")
        assert logs.failed() == {}
    assert there.names("server") | there.names("load-generator") == pods
    address = f"{there.pods('server')[0]['status']['podIP']}:50051"
    assert "Hello" in call(address, there.project / "certs" / "client")
    with pytest.raises(grpc.RpcError) as error:
        call(address, first)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_kubelets_probes_need_no_certificate_and_nothing_else_gets_in_without(deployments: dict[str, Deployed]) -> None:
    """All pods are ready by the port for health, on which nothing else is offered; the other refuses plaintext."""
    pod = deployments["production"].pods("server")[0]
    assert all(status["ready"] for status in pod["status"]["containerStatuses"])
    for port, code in ((50053, grpc.StatusCode.UNIMPLEMENTED), (50051, grpc.StatusCode.UNAVAILABLE)):
        with grpc.insecure_channel(f"{pod['status']['podIP']}:{port}") as channel, pytest.raises(grpc.RpcError) as error:
            greet: Any = channel.unary_unary("/greeter.v1.GreeterService/Greet")
            greet(b"", timeout=10)
        assert error.value.code() is code
