"""Servers that a registry lists and a client calls, and what happens when the registry is away."""

import asyncio
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, TypeVar

from discovery import Config
from discovery.testing import EtcdServer
from lab.load import Options
from lab.servers import Server

from .catalog import Row
from .harness import Harness
from .proxied import DnsRegistry, EtcdRegistry, KubernetesRegistry, Place, Registry

REFRESH = 1.0
"""Seconds from one question of dns-poll to the next, in the place of 5, so that a run is shorter."""


Kind = TypeVar("Kind", bound=Registry)


class Listed(Generic[Kind]):
    """Three servers that a registry lists and a client calls, and a fourth place."""

    def __init__(self, harness: Harness, registry: Kind, all_four: list[Server]) -> None:
        self.harness = harness
        self.registry = registry
        self.servers = all_four
        self.config: Config = registry.config

    @classmethod
    async def on(cls, harness: Harness, registry: Kind, all_four: list[Server]) -> "Listed[Kind]":
        """A registry, listing a, b and c, which are started; no calls yet."""
        harness.at_end(registry.close)
        await asyncio.gather(*(server.start() for server in all_four[:3]))
        listed = cls(harness, registry, all_four)
        await listed.list("a", "b", "c")
        harness.target = registry.target
        return listed

    async def list(self, *names: str) -> None:
        places = [(server.address, server.port) for server in self.servers if server.name in names]
        await asyncio.to_thread(self.registry.set, places)

    async def call(self) -> None:
        await self.harness.call(options=Options(config=self.config))
        await self.harness.served_by("a", "b", "c")

    async def lost(self, away: Callable[[], object], back: Callable[[], object]) -> Row:
        """The registry goes; c dies, d comes; it is back. No call may fail; d must be called."""
        harness = self.harness
        harness.mark()
        await asyncio.to_thread(away)
        await harness.until(lambda: not harness.status().startswith("synced"), "a status that says so")
        noticed = time.monotonic() - harness.marked
        harness.keep_status()
        self.servers[2].kill()
        await self.servers[2].ended()
        await self.servers[3].start()
        await self.list("a", "b", "d")
        await asyncio.to_thread(back)
        repaired = time.monotonic()
        await harness.served_by("a", "b", "d")
        harness.recovered_since(repaired)
        return harness.row(not harness.failed(), f"noticed after {noticed:.1f} s; over counts from the registry's return")


async def listed_by(harness: Harness, kind: str) -> Listed[Registry]:
    """By a registry of this kind."""
    make: dict[str, Callable[[Harness], Coroutine[None, None, Listed[Any]]]] = {
        "dns": on_dns,
        "etcd": on_etcd,
        "kubernetes": on_kubernetes,
    }
    return await make[kind](harness)


async def on_dns(harness: Harness) -> Listed[DnsRegistry]:
    """Servers on addresses of their own, and one port for all, because A records hold none."""
    all_four = harness.placed(*(f"127.0.1.{number}" for number in range(1, 5)), one_port=True)
    return await Listed.on(harness, DnsRegistry(all_four[0].port, REFRESH), all_four)


async def on_etcd(harness: Harness) -> Listed[EtcdRegistry]:
    """An etcd of its own."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    server = EtcdServer(Path(folder.name) / "data")
    await asyncio.to_thread(server.start)
    harness.at_end(server.stop)
    return await Listed.on(harness, EtcdRegistry(server), harness.placed(*["127.0.0.1"] * 4))


async def on_kubernetes(harness: Harness) -> Listed[KubernetesRegistry]:
    """A namespace of its own; servers on this machine's address, since the API refuses loopback ones."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    registry = await asyncio.to_thread(KubernetesRegistry, Path(folder.name))
    own = await asyncio.to_thread(own_address, registry.upstream)
    return await Listed.on(harness, registry, harness.placed(*[own] * 4))


def own_address(towards: Place) -> str:
    """The address under which others see this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(towards)
        return str(probe.getsockname()[0])
