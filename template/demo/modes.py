"""The ways in which a client can learn who serves: a registry to run, a target to call, and what theory expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from discovery import Manual

from .balancer import Balancer
from .servers import DemoError, Server

NAME = "greeter.demo."
REFRESH = 1.0
"""Seconds from one DNS question to the next; 5 in production."""


@dataclass(frozen=True)
class Promise:
    """What must be seen. prompt: seconds from an update to a new server's first call, None if it may take for ever.
    pinned: one server gets everything.   text: what a person should look for."""

    prompt: float | None
    text: str
    pinned: bool = False


class Mode(Protocol):
    """One way. `publish` makes `servers` the registry's whole truth."""

    promise: ClassVar[Promise]
    target: str

    async def start(self, port: int) -> None: ...
    def publish(self, servers: Sequence[Server]) -> None: ...
    async def close(self) -> None: ...


class Dns:
    """A real DNS server, asked every second by discovery."""

    promise = Promise(REFRESH + 0.05, "new servers are called within a refresh; nothing fails, because who drains or dies is left at once")
    scheme: ClassVar[str] = "dns-poll:///"

    def __init__(self) -> None:
        try:
            from discovery.tests.dns_server import Server as DnsServer
        except ModuleNotFoundError as error:
            raise DemoError(f"this mode needs {error.name}: run it by `make demo`, which installs it") from None
        self._server = DnsServer()
        self.target = ""

    @property
    def servers(self) -> tuple[str, ...]:
        """What the client is to ask."""
        return (self._server.address,)

    async def start(self, port: int) -> None:
        self.target = f"dns-poll:///{NAME}:{port}"

    def publish(self, servers: Sequence[Server]) -> None:
        self._server.zone.set(NAME, *(f"A {server.address}" for server in servers))

    async def close(self) -> None:
        self._server.close()


class NativeDns(Dns):
    """The same DNS server, asked by gRPC's own resolver: what people have today."""

    promise = Promise(None, "a new server is not called until a connection breaks: gRPC asks DNS again only then")

    async def start(self, port: int) -> None:
        self.target = f"dns://{self._server.address}/{NAME}:{port}"


class Passthrough:
    """One address in front of all, as a ClusterIP is."""

    promise = Promise(None, "one server gets everything until its connection breaks: the others idle", pinned=True)

    def __init__(self) -> None:
        self._balancer = Balancer()
        self.target = ""

    async def start(self, port: int) -> None:
        await self._balancer.start()
        self.target = f"passthrough:///127.0.0.1:{self._balancer.port}"

    def publish(self, servers: Sequence[Server]) -> None:
        self._balancer.set([(server.address, server.port) for server in servers])

    async def close(self) -> None:
        await self._balancer.close()


class ByHand:
    """The program says who serves: what a watched registry looks like from the client."""

    promise = Promise(0.05, "new servers are called within milliseconds; nothing fails")

    def __init__(self) -> None:
        self._manual = Manual("greeter")
        self.target = self._manual.target

    async def start(self, port: int) -> None:
        pass

    def publish(self, servers: Sequence[Server]) -> None:
        self._manual.set([server.authority for server in servers])

    async def close(self) -> None:
        pass


MODES: dict[str, type[Mode]] = {"dns": Dns, "native-dns": NativeDns, "passthrough": Passthrough, "manual": ByHand}
