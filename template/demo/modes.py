"""The ways in which a client can learn who serves: a registry to run, a target to call, and what theory expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from discovery import Manual

from .balancer import Balancer
from .servers import DemoError, Server

NAME = "greeter.demo."
REFRESH = 1.0
"""Seconds from one DNS question to the next; 5 in production."""


@dataclass(frozen=True)
class Promise:
    """What must be seen, and how it is said to a person.

    spread: `all` is every server that serves, a new one `within` seconds of the update and without a failed call.
    `reconnect` is a new one only once a connection has broken. `one` is one server until its connection breaks.
    """

    spread: Literal["all", "reconnect", "one"]
    text: str
    within: float = 0.0


class Mode(Protocol):
    """One way. A new one is a class with this face and a line in MODES.

    target: valid after `start`.   discovery: what the client's DISCOVERY__ settings need for it, by name.
    """

    promise: ClassVar[Promise]
    target: str
    discovery: dict[str, Any]

    async def start(self, servers: Sequence[Server]) -> None:
        """Run what the registry needs; `servers` have their places but do not run yet. Raises DemoError."""

    def publish(self, servers: Sequence[Server]) -> None:
        """Make `servers` the registry's whole truth."""

    async def close(self) -> None:
        """End what `start` began."""


class Dns:
    """A real DNS server, asked every second by discovery."""

    promise = Promise("all", f"new servers are called within a refresh of {REFRESH:g} s, those that drain or die are left at once, and no call fails", REFRESH)

    def __init__(self) -> None:
        try:
            import dns.resolver  # noqa: F401

            from discovery.tests.dns_server import Server as DnsServer
        except ModuleNotFoundError as error:
            raise DemoError(f"this mode needs {error.name}, which is not installed: run it by `make demo`, or take --mode manual") from None
        self._server = DnsServer()
        self._one_port = True
        self.target = ""
        self.discovery: dict[str, Any] = {"refresh": REFRESH, "dns_servers": (self._server.address,)}

    async def start(self, servers: Sequence[Server]) -> None:
        self._one_port = len({server.port for server in servers}) == 1
        self.target = f"dns-poll:///{NAME}:{servers[0].port}" if self._one_port else f"dns-poll:///{NAME}"
        for server in servers:
            self._server.zone.set(f"{server.name}.{NAME}", f"A {server.address}")

    def publish(self, servers: Sequence[Server]) -> None:
        """A records as a headless Service has them; SRV records where the servers' ports differ."""
        lines = [f"A {server.address}" if self._one_port else f"SRV 0 1 {server.port} {server.name}.{NAME}" for server in servers]
        self._server.zone.set(NAME, *lines)

    async def close(self) -> None:
        self._server.close()


class NativeDns(Dns):
    """The same DNS server, asked by gRPC's own resolver: what people have today."""

    promise = Promise("reconnect", "a new server is not called until a connection breaks, for only then gRPC asks DNS again")

    async def start(self, servers: Sequence[Server]) -> None:
        await super().start(servers)
        if not self._one_port:
            raise DemoError(
                "this mode needs loopback addresses beside 127.0.0.1, because gRPC's own resolver reads no ports from DNS; "
                f"add them (on macOS: for i in {' '.join(str(number) for number in range(1, len(servers) + 1))}; do sudo ifconfig lo0 alias 127.0.1.$i; done), "
                "or take --mode dns"
            )
        self.target = f"dns://{self._server.address}/{NAME}:{servers[0].port}"


class Passthrough:
    """One address in front of all, as a ClusterIP is."""

    promise = Promise("one", "one server gets every call until its connection breaks, the others idle")

    def __init__(self) -> None:
        self._balancer = Balancer()
        self.target = ""
        self.discovery: dict[str, Any] = {}

    async def start(self, servers: Sequence[Server]) -> None:
        await self._balancer.start()
        self.target = f"passthrough:///127.0.0.1:{self._balancer.port}"

    def publish(self, servers: Sequence[Server]) -> None:
        self._balancer.set([(server.address, server.port) for server in servers])

    async def close(self) -> None:
        await self._balancer.close()


class ByHand:
    """The program says who serves: what a watched registry looks like from the client."""

    promise = Promise("all", "new servers are called at once, those that drain or die are left at once, and no call fails")

    def __init__(self) -> None:
        self._manual = Manual("greeter")
        self.target = self._manual.target
        self.discovery: dict[str, Any] = {}

    async def start(self, servers: Sequence[Server]) -> None:
        pass

    def publish(self, servers: Sequence[Server]) -> None:
        self._manual.set([server.authority for server in servers])

    async def close(self) -> None:
        pass


MODES: dict[str, type[Mode]] = {"dns": Dns, "native-dns": NativeDns, "passthrough": Passthrough, "manual": ByHand}
