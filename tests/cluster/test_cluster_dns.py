"""dns-poll against a real cluster's CoreDNS: a headless Service, its A and SRV records, and a change."""

import ipaddress
import json
import queue
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from discovery import Config, Dns, Snapshot
from discovery.resolving.resolver import Resolver
from discovery.sources.source import open_source
from discovery.target import parse
from tests.discovery.fakes import on_sets

pytestmark = pytest.mark.cluster

DNS = "10.96.0.10"
DEADLINE = 90.0
"""Seconds: CoreDNS hands out answers that are up to 30 s old."""


def kubectl(*arguments: str, given: object = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments],
        input=json.dumps(given) if given else None,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def publish(namespace: str, *addresses: str) -> None:
    """The endpoints of the Service, written by hand as a controller would."""
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    kubectl(
        "apply", "-f", "-",
        given={
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": "greeter-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "greeter"}},
            "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP"}],
        },
    )  # fmt: skip


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace of its own with a headless Service without selector."""
    name = f"dns-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "greeter", "namespace": name},
        "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 50051}]},
    }  # fmt: skip
    kubectl("apply", "-f", "-", given=service)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


class Followed:
    """A resolver on a target, asking CoreDNS; what it passed on."""

    def __init__(self, target: str) -> None:
        config = Config(coalesce=0, health=None, dns=Dns(refresh=0.5, servers=(DNS,)))
        self.passed: queue.Queue[Snapshot] = queue.Queue()
        self.resolver = Resolver(parse(target), open_source(parse(target), config), config)
        on_sets(self.resolver, self.passed.put)
        self.resolver.start()

    def wait_for(self, *addresses: str) -> None:
        expected = {(str(ipaddress.ip_address(address)), 50051) for address in addresses}
        found: set[tuple[str, int]] = set()
        while found != expected:
            found = {endpoint[:2] for endpoint in self.passed.get(timeout=DEADLINE).endpoints}


def test_a_headless_services_pods_are_found_and_followed(namespace: str) -> None:
    """By address records with the target's port, and by service records with the Service's own."""
    publish(namespace, "10.244.0.201", "10.244.0.202", "10.244.0.203")
    forms = (f"greeter.{namespace}.svc.cluster.local.:50051", f"_grpc._tcp.greeter.{namespace}.svc.cluster.local.")
    followed = [Followed(f"dns-poll:///{form}") for form in forms]
    try:
        for each in followed:
            each.wait_for("10.244.0.201", "10.244.0.202", "10.244.0.203")
        publish(namespace, "10.244.0.202", "10.244.0.204")
        for each in followed:
            each.wait_for("10.244.0.202", "10.244.0.204")
    finally:
        for each in followed:
            each.resolver.close()
