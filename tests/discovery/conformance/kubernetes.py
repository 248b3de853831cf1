"""kubernetes, a real API server: EndpointSlices written as the controller would, through a proxy that can fail."""

import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from discovery.config import Config, Kubernetes
from discovery.testing import Backend, Proxy

from .registry import Place, Registry

_SERVICES = ("greeter", "other")
_SLICE = 100
"""Endpoints in a slice at the most, as the controller has it."""


class KubernetesRegistry(Registry):
    """A namespace of its own. Places with one port share slices."""

    name = "kubernetes"
    marks = (pytest.mark.cluster,)
    lacks: ClassVar = {}

    def __init__(self, folder: Path) -> None:
        from .. import cluster_api  # reads the cluster's address, so only where there is one

        self._api = cluster_api
        self._entered = cluster_api.namespace()
        self._namespace = self._entered.__enter__()
        self._proxy = Proxy(cluster_api.server())
        self._file = cluster_api.kubeconfig(
            folder / "kubeconfig", proxied=cluster_api.context(url=f"https://{self._proxy.address}")
        )
        self._slices: dict[tuple[int, str], tuple[int, tuple[str, ...]]] = {}

    def target(self, service: int = 0) -> str:
        return f"kubernetes:///{_SERVICES[service]}.{self._namespace.name}:grpc"

    def config(self, *, impatient: bool = False) -> Config:
        settings = Kubernetes(kubeconfig=self._file, timeout=2.0, silence=1.0 if impatient else 90.0)
        return replace(super().config(), kubernetes=settings)

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        by_port: dict[int, list[str]] = defaultdict(list)
        for address, port in wanted:
            by_port[port].append(address)
        slices = {
            f"{_SERVICES[service]}-{port}-{number}": (port, tuple(addresses))
            for port, listed in by_port.items()
            for number, addresses in enumerate(_batched(listed))
        }
        for name, content in slices.items():
            if self._slices.get((service, name)) != content:
                self._write(service, name, *content)
                self._slices[service, name] = content
        for number, name in [key for key in self._slices if key[0] == service and key[1] not in slices]:
            self._namespace.delete_slice(name)
            del self._slices[number, name]

    def _write(self, service: int, name: str, port: int, addresses: tuple[str, ...], **more: dict[str, str]) -> None:
        ports = [{"name": "grpc", "port": port, "protocol": "TCP"}]
        self._namespace.slice(_SERVICES[service], self._api.ready(*addresses), name=name, ports=ports, **more)  # type: ignore[arg-type]

    def rewrite(self) -> None:
        for (service, name), content in self._slices.items():
            self._write(service, name, *content, annotations={"touched": "yes"})

    def spoil(self) -> str:
        self._namespace.slice("greeter", [{"addresses": ["pod.example"]}], name="bad", address_type="FQDN")
        return "EndpointSlice 'bad'"

    def down(self) -> None:
        self._proxy.refuse()

    def up(self) -> None:
        self._proxy.mend()

    def hang(self) -> None:
        self._proxy.silence()

    def thaw(self) -> None:
        self._proxy.mend()

    def servers(self, *names: str) -> dict[str, tuple[Backend, Place]]:
        """On this machine's own address: the API refuses loopback ones."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(self._api.server())
            own = probe.getsockname()[0]
        running = {name: Backend(name, f"{own}:0") for name in names}
        return {name: (server, (own, server.port)) for name, server in running.items()}

    def close(self) -> None:
        self._proxy.close()
        self._entered.__exit__(None, None, None)


def _batched(listed: list[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(listed[begin : begin + _SLICE]) for begin in range(0, len(listed), _SLICE))
