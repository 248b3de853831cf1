"""The ways in which a client can learn who serves: a registry to run, a target to call, and what is expected."""

import asyncio
import contextlib
import itertools
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from discovery import Config, DiscoveryError, Manual
from discovery import Dns as DnsConfig
from discovery import Etcd as EtcdConfig
from discovery.sources.etcd import Watch
from discovery.sources.etcd_client import Entry, EtcdClient, EtcdError, prefix_end
from discovery.testing import DnsServer, EtcdServer

from ..servers import START, Server, ServerError
from .balancer import Balancer

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

    target: valid after `start`.   config: the client's part of the registry.
    """

    promise: Promise
    target: str
    config: Config

    async def start(self, servers: Sequence[Server]) -> None:
        """Run what the registry needs; `servers` have their places but do not run yet. Raises ServerError."""

    async def publish(self, servers: Sequence[Server]) -> float:
        """Make `servers` the registry's whole truth; returns when it became that, on `time.monotonic()`."""

    async def close(self) -> None:
        """End what `start` began."""


class _Zone:
    """A real DNS server on loopback, with the records that a headless Service has."""

    def __init__(self) -> None:
        try:
            self._server = DnsServer()
        except DiscoveryError as error:
            raise ServerError(f"this mode does not run here: {error}; or run it by `make demo`, or take --mode manual") from None
        self.target = ""
        self.config = Config(dns=DnsConfig(refresh=REFRESH, servers=(self._server.address,)))

    async def publish(self, servers: Sequence[Server]) -> float:
        now = time.monotonic()
        self._server.records(NAME, *(f"A {server.address}" for server in servers))
        return now

    async def close(self) -> None:
        self._server.stop()


class Dns(_Zone):
    """DNS, asked every second by discovery. Where the servers' ports differ they are published as SRV records."""

    promise = Promise(
        "all", f"new servers are called within a refresh ({REFRESH:g} s), others left at once, and no call fails", REFRESH
    )

    async def start(self, servers: Sequence[Server]) -> None:
        self._with_ports = _ports_differ(servers)
        self.target = f"dns-poll:///{NAME}" if self._with_ports else f"dns-poll:///{NAME}:{servers[0].port}"
        for server in servers:
            self._server.records(f"{server.name}.{NAME}", f"A {server.address}")

    async def publish(self, servers: Sequence[Server]) -> float:
        if not self._with_ports:
            return await super().publish(servers)
        now = time.monotonic()
        self._server.records(NAME, *(f"SRV 0 1 {server.port} {server.name}.{NAME}" for server in servers))
        return now


class NativeDns(_Zone):
    """The same DNS, asked by gRPC's own resolver: what one has without discovery."""

    promise = Promise("reconnect", "a new server is not called until a connection breaks, for only then gRPC asks DNS again")

    async def start(self, servers: Sequence[Server]) -> None:
        if _ports_differ(servers):
            raise ServerError(
                "this mode needs the loopback addresses 127.0.1.1 to 127.0.1.4, because gRPC's own resolver reads no ports from DNS; "
                "add them (on macOS: for i in 1 2 3 4; do sudo ifconfig lo0 alias 127.0.1.$i; done), or take --mode dns"
            )
        self.target = f"dns://{self._server.address}/{NAME}:{servers[0].port}"


def _ports_differ(servers: Sequence[Server]) -> bool:
    """Whether this system gave the servers one address with many ports, instead of many addresses with one."""
    return len({server.port for server in servers}) > 1


class Passthrough:
    """One address in front of all, as a ClusterIP is."""

    promise = Promise("one", "one server gets every call until its connection breaks, the others idle")

    def __init__(self) -> None:
        self._balancer = Balancer()
        self.target = ""
        self.config = Config()

    async def start(self, servers: Sequence[Server]) -> None:
        await self._balancer.start()
        self.target = f"passthrough:///127.0.0.1:{self._balancer.port}"

    async def publish(self, servers: Sequence[Server]) -> float:
        now = time.monotonic()
        self._balancer.set([(server.address, server.port) for server in servers])
        return now

    async def close(self) -> None:
        await self._balancer.close()


class ByHand:
    """The program sets who serves: what a watched registry looks like from the client."""

    promise = Promise("all", "new servers are called at once, others left at once, and no call fails")

    def __init__(self) -> None:
        self._manual = Manual("greeter")
        self.target = self._manual.target
        self.config = Config()

    async def start(self, servers: Sequence[Server]) -> None:
        pass

    async def publish(self, servers: Sequence[Server]) -> float:
        now = time.monotonic()
        self._manual.set([server.authority for server in servers])
        return now

    async def close(self) -> None:
        pass


class Etcd:
    """A real etcd, in which the servers register themselves: a lease each, taken back at SIGTERM, ended by time after SIGKILL."""

    promise = Promise("all", "servers register themselves; new ones are called at once, others left at once, and no call fails")

    def __init__(self) -> None:
        if shutil.which("etcd") is None:
            raise ServerError(
                "this mode needs etcd on PATH: apt-get install etcd-server, brew install etcd, or a binary from etcd's releases; "
                "or take --mode manual"
            )
        self._folder = tempfile.TemporaryDirectory()
        self._etcd = EtcdServer(Path(self._folder.name) / "data")
        self.target = "etcd:///greeter"
        self.config = Config(etcd=EtcdConfig(endpoints=(self._etcd.address,)))
        self._listed: set[str] = set()
        self._changed = asyncio.Condition()

    async def start(self, servers: Sequence[Server]) -> None:
        try:
            await asyncio.to_thread(self._etcd.start)
        except (DiscoveryError, OSError) as error:
            raise ServerError(f"etcd does not start: {error}") from None
        for server in servers:
            server.settings |= {
                "REGISTRATION__TARGET": self.target,
                "REGISTRATION__ADDRESS": server.address,
                "DISCOVERY__ETCD__ENDPOINTS": json.dumps([self._etcd.address]),
            }
        self._client = EtcdClient(self._etcd.settings(timeout=START), 0)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._look, name="demo etcd", daemon=True).start()

    def _look(self) -> None:
        """What etcd holds, watched independently of the client."""
        prefix = f"{self.target.removeprefix('etcd:///')}/".encode()
        with contextlib.suppress(EtcdError, RuntimeError):  # the demo's end
            revision, entries = self._client.range(prefix, prefix_end(prefix))
            for changes in itertools.chain([entries], Watch(self._client, prefix, prefix_end(prefix), revision, entries)):
                asyncio.run_coroutine_threadsafe(self._note(prefix, changes, time.monotonic()), self._loop)

    async def _note(self, prefix: bytes, changes: Sequence[Entry], at: float) -> None:
        async with self._changed:
            for change in changes:
                name = change.key.removeprefix(prefix).decode()
                (self._listed.discard if change.value is None else self._listed.add)(name)
                self._listed_at = at
            self._changed.notify_all()

    async def publish(self, servers: Sequence[Server]) -> float:
        """The servers do it themselves; this waits until they have."""
        wanted = {server.authority for server in servers}
        try:
            async with asyncio.timeout(START), self._changed:
                await self._changed.wait_for(lambda: self._listed == wanted)
                return self._listed_at
        except TimeoutError:
            listed, missed = ", ".join(sorted(self._listed)), ", ".join(sorted(wanted))
            raise ServerError(f"etcd lists {listed or 'no server'} after {START:g} s, and should list {missed}") from None

    async def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()
        self._etcd.stop()
        self._folder.cleanup()


MODES: dict[str, Callable[[], Mode]] = {
    "dns": Dns,
    "native-dns": NativeDns,
    "passthrough": Passthrough,
    "etcd": Etcd,
    "manual": ByHand,
}
