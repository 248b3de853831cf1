"""kubernetes again, on the API server of discovery.testing: it does what a real one does, as far as the promises go."""

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from discovery.config import Config
from discovery.testing import SERVICE_NAME, ApiServer

from .registry import Place, Registry

_SERVICES = ("greeter", "other")


class ApiServerRegistry(Registry):
    """HTTP on loopback; down is a port at which nothing listens."""

    name = "kubernetes on discovery.testing"
    lacks: ClassVar = {}

    def __init__(self) -> None:
        self._server = ApiServer()

    def target(self, service: int = 0) -> str:
        return f"kubernetes:///{_SERVICES[service]}:grpc"

    def config(self, *, impatient: bool = False) -> Config:
        return replace(super().config(), kubernetes=self._server.settings(silence=1.0 if impatient else 90.0))

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        self._server.set(_SERVICES[service], [f"{address}:{port}" for address, port in wanted])

    def rewrite(self) -> None:
        self._server.apply(self._server.slices()[0])

    def spoil(self) -> str:
        metadata = {"name": "bad", "labels": {SERVICE_NAME: "greeter"}}
        self._server.apply({"metadata": metadata, "addressType": "FQDN", "endpoints": [{"addresses": ["pod.example"]}]})
        return "EndpointSlice 'bad'"

    def down(self) -> None:
        self._server.stop()

    def up(self) -> None:
        self._server.start()

    def hang(self) -> None:
        self._server.freeze()

    def thaw(self) -> None:
        self._server.thaw()

    def close(self) -> None:
        self._server.close()
