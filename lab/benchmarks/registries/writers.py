"""Registries, as their writer sees them: `put(index, place)` returns the moment that counts; no place takes it away."""

import base64
import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import discovery
from discovery.sources.etcd_client import EtcdClient
from discovery.target import parse
from discovery.testing import EtcdServer

from .clients import Client, slices


class Manual:
    """The peer: what an update costs without a registry. The client writes by itself, when it is told to."""

    name, target, config, host = "manual", "manual:///bench", discovery.Config(), "127.18"

    def __init__(self) -> None:
        self.client: Client | None = None
        self._places: list[str] = []

    @property
    def listed(self) -> list[str]:
        return [place for place in self._places if place]

    def fill(self, places: Sequence[str]) -> None:
        """The next client is born with them."""
        self.client, self._places = None, list(places)

    def put(self, index: int, place: str) -> float:
        self._places[index] = place
        if self.client is None:
            return 0.0
        self.client.pipe.send(("manual", self.listed))
        return float(self.client.answer())


class Etcd:
    """Keys as Go's package naming/endpoints writes them. What counts is the return of the put."""

    name, host = "etcd", "127.18"

    def __init__(self, server: EtcdServer, target: str) -> None:
        self.target = target
        self.config = discovery.Config(etcd=discovery.Etcd(endpoints=(server.address,)))
        self._client = EtcdClient(self.config.etcd, 0)
        self._leases: dict[int, int] = {}

    def fill(self, places: Sequence[str]) -> None:
        """Replaces what was there."""
        for index in list(self._leases):
            self.put(index, "")
        for index, place in enumerate(places):
            self.put(index, place)

    def put(self, index: int, place: str) -> float:
        if not place:
            self._client.revoke(self._leases.pop(index))
            return 0.0
        lease = self._leases[index] = self._leases.get(index) or self._client.grant(3600)
        value = json.dumps({"Op": 0, "Addr": place, "Metadata": None}).encode()
        self._client.put(f"{parse(self.target).name}/{index}".encode(), value, lease)
        return time.monotonic()


class Kubernetes:
    """Slices of up to 1,000 endpoints, the most that the API takes. What counts is the moment when the witness, if there is one, sees
    the patched slice."""

    name, host, config = "kubernetes", "198.18", discovery.Config()
    witness: Client | None = None

    def __init__(self, namespace: str) -> None:
        self.namespace, self.target = namespace, f"kubernetes:///bench.{namespace}"
        self._slices = slices()
        self._listed: list[str] = []

    def fill(self, places: Sequence[str]) -> None:
        """One slice for each port and thousand; replaces what was there."""
        self._slices.delete_collection_namespaced_endpoint_slice(self.namespace)
        self._listed = list(places)
        for index in {self._slice(index): index for index in range(len(places))}.values():
            labels = {"kubernetes.io/service-name": "bench"}
            port = int(places[index].partition(":")[2])
            content = {
                "metadata": {"name": self._slice(index), "labels": labels}, "addressType": "IPv4",
                "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}], "endpoints": self._endpoints(index),
            }  # fmt: skip
            self._slices.create_namespaced_endpoint_slice(self.namespace, content)

    def put(self, index: int, place: str) -> float:
        self._listed[index] = place or self._listed[index].replace(self.host, "gone")
        content = {"endpoints": self._endpoints(index)}
        self._slices.patch_namespaced_endpoint_slice(self._slice(index), self.namespace, content)
        while self.witness:
            moment, name, count = self.witness.answer()
            if (name, count) == (self._slice(index), len(content["endpoints"])):
                return float(moment)
        return time.monotonic()

    def account(self, folder: Path) -> dict[str, str]:
        """Write what a pod finds of a ServiceAccount that may read the slices; returns a pod's variables for the API server."""
        for what in (
            ("serviceaccount", "bench"),
            ("role", "bench", "--verb=get,list,watch", "--resource=endpointslices.discovery.k8s.io"),
            ("rolebinding", "bench", "--role=bench", f"--serviceaccount={self.namespace}:bench"),
        ):
            kubectl("create", *what, f"--namespace={self.namespace}")
        view = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
        cluster = view["clusters"][0]["cluster"]
        (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
        (folder / "token").write_text(kubectl("create", "token", "bench", f"--namespace={self.namespace}"))
        server = urlsplit(cluster["server"])
        return {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port), "KUBECONFIG": ""}

    def _slice(self, index: int) -> str:
        return f"bench-{self._listed[index].partition(':')[2]}-{index // 1000}"

    def _endpoints(self, index: int) -> list[object]:
        """What a controller would write of a slice's pods."""
        conditions = {"ready": True, "serving": True, "terminating": False}
        pod = {"kind": "Pod", "namespace": self.namespace, "uid": str(uuid.UUID(int=0))}
        return [
            {"addresses": [place.partition(":")[0]], "conditions": conditions, "nodeName": "node-1",
             "targetRef": {**pod, "name": f"bench-{number}"}}
            for number, place in enumerate(self._listed)
            if self._slice(number) == self._slice(index) and place.startswith(self.host)
        ]  # fmt: skip


Registry = Manual | Etcd | Kubernetes


def places_of(registry: Registry, count: int, *ports: int) -> list[str]:
    """Loopback addresses; server n of the ports in turn."""
    return [f"{registry.host}.{n // 250 + 1}.{n % 250 + 1}:{ports[n % len(ports)]}" for n in range(count)]


def kubectl(*arguments: str) -> str:
    """What it prints. Raises CalledProcessError."""
    return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
