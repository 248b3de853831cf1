"""The registries of the faults, which list servers and can be lost: a DNS server, and etcd and a Kubernetes API behind a proxy."""

import json
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from discovery import Config, Dns, Etcd, Kubernetes
from discovery.testing import SERVICE_NAME, DnsServer, EtcdServer, Proxy

Place = tuple[str, int]
"""Address and port."""


class Registry(Protocol):
    """What a fault does to one. While it is down or hangs, `set` still works."""

    target: str
    config: Config

    def set(self, places: Iterable[Place]) -> None:
        """Make these all endpoints of the target."""

    def down(self) -> None:
        """Break what goes on and refuse what comes."""

    def up(self) -> None:
        """End that."""

    def hang(self) -> None:
        """Answer nothing and break nothing."""

    def thaw(self) -> None:
        """End that."""

    def close(self) -> None:
        """Take everything away."""


class DnsRegistry:
    """A records on loopback and one port for all, as pods have it; asked every `refresh` seconds."""

    def __init__(self, port: int, refresh: float) -> None:
        self.server = DnsServer()
        self.target = f"dns-poll:///greeter.test.:{port}"
        self.config = Config(dns=Dns(refresh=refresh, servers=(self.server.address,)))
        self.hang, self.thaw, self.close = self.server.freeze, self.server.thaw, self.server.stop

    def set(self, places: Iterable[Place]) -> None:
        self.server.records("greeter.test.", *(f"A {address}" for address, _ in places))

    def down(self) -> None:
        self.server.fail("SERVFAIL")

    def up(self) -> None:
        self.server.fail("")


class _Proxied:
    def __init__(self, upstream: Place) -> None:
        self.upstream = upstream
        self.proxy = Proxy(upstream)
        self.down, self.up = self.proxy.refuse, self.proxy.mend
        self.hang, self.thaw = self.proxy.silence, self.proxy.mend


class EtcdRegistry(_Proxied):
    """A member; what is set is written past the proxy."""

    target = "etcd:///greeter"

    def __init__(self, server: EtcdServer) -> None:
        host, _, port = server.address.partition(":")
        super().__init__((host, int(port)))
        self.server = server
        self.config = Config(etcd=Etcd(endpoints=(self.proxy.address,)))

    def set(self, places: Iterable[Place]) -> None:
        self.server.set("greeter", [f"{address}:{port}" for address, port in places])

    def close(self) -> None:
        self.proxy.close()


def kubectl(*arguments: str, content: object = None) -> str:
    """What it prints; `content` is its standard input, as JSON."""
    given = None if content is None else json.dumps(content)
    command = ["kubectl", *arguments]
    return subprocess.run(command, input=given, check=True, capture_output=True, text=True, timeout=60).stdout


class KubernetesRegistry(_Proxied):
    """A namespace of its own in the cluster of KUBECONFIG, and a kubeconfig in `folder` that leads through the proxy."""

    def __init__(self, folder: Path) -> None:
        view = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
        [cluster] = (each["cluster"] for each in view["clusters"])
        server = urlsplit(cluster["server"])
        super().__init__((server.hostname or "", server.port or 443))
        cluster |= {"server": f"https://{self.proxy.address}", "tls-server-name": server.hostname}
        (folder / "kubeconfig").write_text(json.dumps(view))
        self.namespace = f"faults-{uuid.uuid4().hex[:8]}"
        kubectl("create", "namespace", self.namespace)
        self.target = f"kubernetes:///greeter.{self.namespace}:grpc"
        self.config = Config(kubernetes=Kubernetes(kubeconfig=str(folder / "kubeconfig")))
        self._names: set[str] = set()

    def set(self, places: Iterable[Place]) -> None:
        by_port: dict[int, list[str]] = defaultdict(list)
        for address, port in places:
            by_port[port].append(address)
        slices = [self._slice(port, addresses) for port, addresses in by_port.items()]
        self.apply(*slices)
        names = {each["metadata"]["name"] for each in slices}
        if gone := self._names - names:
            kubectl("-n", self.namespace, "delete", "endpointslice", *sorted(gone))
        self._names = names

    def _slice(self, port: int, addresses: list[str]) -> dict[str, Any]:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"greeter-{port}", "labels": {SERVICE_NAME: "greeter"}},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        }

    def service(self) -> None:
        """The headless Service of the slices, without a selector, for the cluster's DNS."""
        spec = {"clusterIP": "None", "ports": [{"name": "grpc", "port": 50051}]}
        self.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "greeter"}, "spec": spec})

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects in the namespace."""
        content = {"apiVersion": "v1", "kind": "List", "items": objects}
        kubectl("-n", self.namespace, "apply", "--server-side", "--force-conflicts", "-f", "-", content=content)

    def close(self) -> None:
        self.proxy.close()
        kubectl("delete", "namespace", self.namespace, "--wait=false")
