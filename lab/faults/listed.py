"""Servers that a registry lists and a client calls, and what happens when the registry is away."""

import asyncio
import functools
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from discovery import Config, Dns, Etcd, Kubernetes
from lab.load import Options
from lab.servers import Server
from tests.discovery import cluster_api
from tests.discovery.conformance.dns import DnsRegistry
from tests.discovery.conformance.etcd import EtcdRegistry
from tests.discovery.conformance.kubernetes import KubernetesRegistry
from tests.discovery.etcd_server import EtcdServer

from .catalog import Row
from .harness import Harness

REFRESH = 1.0
"""Seconds from one question of dns-poll to the next, in the place of 5, so that a run is shorter."""


class Listed:
    """Three servers that a registry lists and a client calls, and a fourth place."""

    def __init__(self, harness: Harness, registry: Any, all_four: list[Server], config: Config) -> None:
        self.harness = harness
        self.registry = registry
        self.servers = all_four
        self.config = config

    @classmethod
    async def on(cls, harness: Harness, make: Callable[[], Any], own: str = "127.0.0.1") -> "Listed":
        """A registry of the conformance suite, listing a, b and c; no calls yet."""
        registry = await asyncio.to_thread(make)
        harness.at_end(registry.close)
        if isinstance(registry, DnsRegistry):
            all_four = harness.placed(*(f"127.0.1.{number}" for number in range(1, 5)), one_port=True)
            registry._port = all_four[0].port  # one port for all, as pods have it
        else:
            all_four = harness.placed(*[own] * 4)
        await asyncio.gather(*(server.start() for server in all_four[:3]))
        # Where it is, with the times of production but for the refresh.
        theirs = registry.config()
        etcd, kubernetes = Etcd(endpoints=theirs.etcd.endpoints), Kubernetes(kubeconfig=theirs.kubernetes.kubeconfig)
        config = Config(dns=Dns(refresh=REFRESH, servers=theirs.dns.servers), etcd=etcd, kubernetes=kubernetes)
        listed = cls(harness, registry, all_four, config)
        await listed.list("a", "b", "c")
        harness.target = registry.target()
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


async def listed_by(harness: Harness, kind: str) -> Listed:
    if kind == "etcd":
        return await on_etcd(harness, await etcd_member(harness))
    if kind == "kubernetes":
        return await on_kubernetes(harness)
    return await Listed.on(harness, DnsRegistry)


async def etcd_member(harness: Harness) -> EtcdServer:
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    server = EtcdServer(Path(folder.name) / "data")
    await asyncio.to_thread(server.start)
    harness.at_end(server.stop)
    return server


async def on_etcd(harness: Harness, server: EtcdServer) -> Listed:
    return await Listed.on(harness, functools.partial(EtcdRegistry, server))


async def on_kubernetes(harness: Harness) -> Listed:
    """A namespace of its own; servers on this machine's address, since the API refuses loopback ones."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    own = await asyncio.to_thread(own_address, cluster_api.server())
    return await Listed.on(harness, functools.partial(KubernetesRegistry, Path(folder.name)), own)


def own_address(towards: tuple[str, int]) -> str:
    """The address under which others see this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(towards)
        return str(probe.getsockname()[0])
