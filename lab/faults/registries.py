"""What happens to the registry. A server dies while it is away, another comes; calls must not notice the first, and find the
second once the registry is back."""

import asyncio
import functools
import importlib
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.demo.servers import Server

from . import garbage
from .catalogue import Row, fault
from .harness import Trial

REFRESH = 1.0
"""Seconds from one question of dns-poll to the next, in the place of 5, so that a run is shorter."""


class Listed:
    """Three servers that a registry lists and a client calls, and a fourth place."""

    def __init__(self, trial: Trial, registry: Any, all_four: list[Server], found: dict[str, Any]) -> None:
        self.trial = trial
        self.registry = registry
        self.servers = all_four
        self.found = found

    @classmethod
    async def on(cls, trial: Trial, kind: str, *given: Any, own: str = "127.0.0.1") -> "Listed":
        """A registry of the conformance suite, listing a, b and c; nobody calls yet."""
        module = importlib.import_module(f"discovery.tests.conformance.{kind}")
        registry = await asyncio.to_thread(getattr(module, f"{kind.capitalize()}Registry"), *given)
        trial.later(registry.close)
        if kind == "dns":
            all_four = trial.placed(*(f"127.0.1.{number}" for number in range(1, 5)), one_port=True)
            registry._port = all_four[0].port  # one port for all, as pods have it
        else:
            all_four = trial.placed(*[own] * 4)
        await asyncio.gather(*(server.start() for server in all_four[:3]))
        config = registry.config()
        listed = cls(
            trial, registry, all_four,
            {
                "dns_servers": config.dns.servers, "refresh": REFRESH, "etcd": {"endpoints": config.etcd.endpoints},
                "kubernetes": {"kubeconfig": config.kubernetes.kubeconfig},
            },
        )  # fmt: skip
        await listed.list("a", "b", "c")
        trial.target = registry.target()
        return listed

    async def list(self, *names: str) -> None:
        places = [(server.address, server.port) for server in self.servers if server.name in names]
        await asyncio.to_thread(self.registry.set, places)

    async def call(self) -> None:
        await self.trial.call(found=self.found)
        await self.trial.served_by("a", "b", "c")

    async def lost(self, away: Callable[[], object], back: Callable[[], object]) -> Row:
        """The registry goes; c dies, d comes; it is back. No call may fail; d must be called."""
        trial = self.trial
        trial.mark()
        await asyncio.to_thread(away)
        await trial.until(lambda: not trial.said().startswith("synced"), "a status that says so")
        noticed = time.monotonic() - trial.marked
        trial.look()
        self.servers[2].kill()
        await self.servers[2].ended()
        await self.servers[3].start()
        await self.list("a", "b", "d")
        await asyncio.to_thread(back)
        mended = time.monotonic()
        await trial.served_by("a", "b", "d")
        trial.recovered_since(mended)
        return trial.row(not trial.failed(), f"noticed after {noticed:.1f} s; over counts from the registry's return")


_PROMISE = "No call fails while it is away, though a server dies meanwhile; when it is back, what has changed is called."


def _lost(kind: str) -> Callable[[Trial], Any]:
    async def run(trial: Trial) -> Row:
        listed = await _listed(trial, kind)
        await listed.call()
        return await listed.lost(listed.registry.down, listed.registry.up)

    run.__doc__ = _PROMISE
    return run


def _hangs(kind: str) -> Callable[[Trial], Any]:
    async def run(trial: Trial) -> Row:
        listed = await _listed(trial, kind)
        await listed.call()
        return await listed.lost(listed.registry.hang, listed.registry.thaw)

    run.__doc__ = _PROMISE
    return run


def _slow_at_start(kind: str) -> Callable[[Trial], Any]:
    async def run(trial: Trial) -> Row:
        listed = await _listed(trial, kind)
        await asyncio.to_thread(listed.registry.hang)
        trial.mark()
        await trial.call(found=listed.found)
        await asyncio.sleep(3.0)
        trial.look()
        await asyncio.to_thread(listed.registry.thaw)
        await trial.served_by("a", "b", "c")
        await trial.calm()
        codes = {result.code for result in trial.failed()}
        return trial.row(codes <= {"DEADLINE_EXCEEDED"}, "it answers after 3 s")

    run.__doc__ = "Calls wait for the first answer, each up to its deadline; then they go well."
    return run


async def _listed(trial: Trial, kind: str) -> Listed:
    if kind == "etcd":
        return await Listed.on(trial, "etcd", await _etcd(trial))
    if kind == "kubernetes":
        return await _kubernetes(trial)
    return await Listed.on(trial, kind)


async def _etcd(trial: Trial) -> Any:
    module = importlib.import_module("discovery.tests.etcd_server")
    folder = tempfile.TemporaryDirectory()
    trial.later(folder.cleanup)
    server = module.EtcdServer(Path(folder.name) / "data")
    await asyncio.to_thread(server.start)
    trial.later(server.stop)
    return server


async def _kubernetes(trial: Trial) -> Listed:
    """A namespace of its own; servers on this machine's address, since the API refuses loopback ones."""
    api = importlib.import_module("discovery.tests.cluster_api")
    folder = tempfile.TemporaryDirectory()
    trial.later(folder.cleanup)
    return await Listed.on(trial, "kubernetes", Path(folder.name), own=await asyncio.to_thread(own_address, api.server()))


def own_address(towards: tuple[str, int]) -> str:
    """The address under which others see this machine."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(towards)
        return str(probe.getsockname()[0])


for _kind, _name, _need in (("dns", "DNS server", "dns"), ("etcd", "etcd", "etcd"), ("kubernetes", "Kubernetes API", "cluster")):
    fault(f"{_name} lost", _need, quick=_kind != "kubernetes")(_lost(_kind))
    fault(f"{_name} hangs", _need)(_hangs(_kind))
    fault(f"{_name} silent at the client's start", _need)(_slow_at_start(_kind))


@fault("DNS server answers nonsense", "dns")
async def dns_garbage(trial: Trial) -> Row:
    """No call fails; when it makes sense again, what has changed is called."""
    listed = await Listed.on(trial, "dns")
    relay = garbage.Udp(listed.registry.config().dns.servers[0])
    trial.later(relay.close)
    listed.found["dns_servers"] = (relay.address,)
    await listed.call()
    return await listed.lost(relay.spoiled.set, relay.spoiled.clear)


async def _garbage(trial: Trial, listed: Listed, upstream: tuple[str, int]) -> Row:
    nonsense = garbage.Tcp()
    trial.later(nonsense.close)
    await listed.call()
    proxy = listed.registry._proxy
    return await listed.lost(
        functools.partial(proxy.redirect, nonsense.place),
        functools.partial(proxy.redirect, upstream),
    )


@fault("etcd answers nonsense", "etcd")
async def etcd_garbage(trial: Trial) -> Row:
    """No call fails; when it makes sense again, what has changed is called."""
    etcd = await _etcd(trial)
    listed = await Listed.on(trial, "etcd", etcd)
    host, _, port = etcd.address.partition(":")
    return await _garbage(trial, listed, (host, int(port)))


@fault("Kubernetes API answers nonsense", "cluster")
async def kubernetes_garbage(trial: Trial) -> Row:
    """No call fails; when it makes sense again, what has changed is called."""
    api = importlib.import_module("discovery.tests.cluster_api")
    return await _garbage(trial, await _kubernetes(trial), api.server())


@fault("etcd cut off and compacted meanwhile", "etcd")
async def etcd_compacted(trial: Trial) -> Row:
    """No call fails; the revision to go on from is gone, so everything is read anew."""
    etcd = await _etcd(trial)
    listed = await Listed.on(trial, "etcd", etcd)
    await listed.call()

    def back() -> None:
        with etcd.client() as client:
            revision = client.range(b"\0", b"\0")[0]
        etcd.control("compact", str(revision))
        listed.registry.up()

    return await listed.lost(listed.registry.down, back)


@fault("etcd killed and restarted", "etcd")
async def etcd_restarted(trial: Trial) -> Row:
    """No call fails; the entries are on its disk, so all three are called on."""
    etcd = await _etcd(trial)
    listed = await Listed.on(trial, "etcd", etcd)
    await listed.call()
    trial.mark()
    await asyncio.to_thread(etcd.stop)
    await trial.until(lambda: not trial.said().startswith("synced"), "a status that says so")
    trial.look()
    await asyncio.to_thread(etcd.start)
    mended = time.monotonic()
    await trial.until(lambda: trial.said().startswith("synced"), "a watch that is back")
    trial.recovered_since(mended)
    await trial.served_by("a", "b", "c")
    return trial.row(not trial.failed(), "over counts from its restart until the watch is back")


@fault("the last known good file's registry is away at the start", "etcd", quick=True)
async def remembered(trial: Trial) -> Row:
    """A client that kept its last set starts with it: no call fails."""
    folder = tempfile.TemporaryDirectory()
    trial.later(folder.cleanup)
    listed = await Listed.on(trial, "etcd", await _etcd(trial))
    listed.found["remember"] = folder.name
    await listed.call()
    await trial.until(lambda: any(Path(folder.name).iterdir()), "a file")
    await trial.stop_calling()
    await asyncio.to_thread(listed.registry.down)
    trial.mark()
    await listed.call()
    trial.look()
    await trial.calm()
    return trial.row(not trial.failed())


def command(name: str) -> None:
    """Run the command of an environment variable."""
    subprocess.run(shlex.split(os.environ[name]), check=True, capture_output=True, timeout=120)


def scale_dns(replicas: int) -> None:
    """So many pods of the cluster's DNS server."""
    kubectl = ["kubectl", "-n", "kube-system", "scale", "deployment", "coredns", f"--replicas={replicas}"]
    subprocess.run(kubectl, check=True, capture_output=True, timeout=60)


@fault("API server stopped and started", "cluster", "disturb")
async def api_restarted(trial: Trial) -> Row:
    """No call fails while it is away; its watch comes back by itself."""
    listed = await _kubernetes(trial)
    await listed.call()
    trial.mark()
    await asyncio.to_thread(command, "FAULTS_STOP_API")
    try:
        await trial.until(lambda: not trial.said().startswith("synced"), "a status that says so")
        trial.look()
        listed.servers[2].kill()
        await asyncio.sleep(5.0)
    finally:
        await asyncio.to_thread(command, "FAULTS_START_API")
    mended = time.monotonic()
    await trial.until(lambda: trial.said().startswith("synced"), "a watch that is back")
    await listed.servers[3].start()
    await listed.list("a", "b", "d")
    await trial.served_by("a", "b", "d")
    trial.recovered_since(mended)
    return trial.row(not trial.failed(), "over counts from its return")


@fault("CoreDNS restarted", "dns", "cluster", "disturb")
async def coredns_restarted(trial: Trial) -> Row:
    """No call fails while it is away, though a server dies meanwhile."""
    api = importlib.import_module("discovery.tests.cluster_api")
    listed = await _kubernetes(trial)
    namespace = listed.registry._namespace
    await asyncio.to_thread(namespace.service, "greeter")
    trial.target = f"dns-poll:///_grpc._tcp.greeter.{namespace.name}.svc.cluster.local."
    address = await asyncio.to_thread(api.service_address, "kube-system", "kube-dns")
    listed.found["dns_servers"] = (f"{address}:53",)
    await listed.call()
    trial.mark()
    await asyncio.to_thread(scale_dns, 0)
    try:
        await trial.until(lambda: not trial.said().startswith("synced"), "a status that says so")
        trial.look()
        listed.servers[2].kill()
    finally:
        await asyncio.to_thread(scale_dns, 1)
    await trial.until(lambda: trial.said().startswith("synced"), "an answer")
    mended = time.monotonic() - trial.marked
    await trial.calm()
    return trial.row(not trial.failed(), f"names were resolved again after {mended:.1f} s")
