"""What happens to the registry. A server dies while it is away, another starts; no call may fail for the first, and the second
must be called once the registry is back."""

import asyncio
import functools
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from discovery.config import Dns, Remember
from lab.load import Options

from . import garbage
from .catalog import Row, fault
from .harness import Harness
from .listed import REFRESH, Listed, listed_by, on_dns, on_etcd, on_kubernetes
from .proxied import EtcdRegistry, KubernetesRegistry, kubectl

_PROMISE = "No call fails while it is away, though a server dies meanwhile; when it is back, what has changed is called."


def _lost(kind: str) -> Callable[[Harness], Any]:
    async def run(harness: Harness) -> Row:
        listed = await listed_by(harness, kind)
        await listed.call()
        return await listed.lost(listed.registry.down, listed.registry.up)

    run.__doc__ = _PROMISE
    return run


def _hangs(kind: str) -> Callable[[Harness], Any]:
    async def run(harness: Harness) -> Row:
        listed = await listed_by(harness, kind)
        await listed.call()
        return await listed.lost(listed.registry.hang, listed.registry.thaw)

    run.__doc__ = _PROMISE
    return run


def _slow_at_start(kind: str) -> Callable[[Harness], Any]:
    async def run(harness: Harness) -> Row:
        listed = await listed_by(harness, kind)
        await asyncio.to_thread(listed.registry.hang)
        harness.mark()
        await harness.call(options=Options(config=listed.config))
        await asyncio.sleep(3.0)
        harness.keep_status()
        await asyncio.to_thread(listed.registry.thaw)
        await harness.served_by("a", "b", "c")
        await harness.calm()
        codes = {result.code for result in harness.failed()}
        return harness.row(codes <= {"DEADLINE_EXCEEDED"}, "it answers after 3 s")

    run.__doc__ = "Calls wait for the first answer, each up to its deadline; then they succeed."
    return run


for _kind, _name, _need in (
    ("dns", "DNS server", ()),
    ("etcd", "etcd", ("etcd",)),
    ("kubernetes", "Kubernetes API", ("cluster",)),
):
    fault(f"{_name} lost", *_need, quick=_kind != "kubernetes")(_lost(_kind))
    fault(f"{_name} hangs", *_need)(_hangs(_kind))
    fault(f"{_name} silent at the client's start", *_need)(_slow_at_start(_kind))


@fault("DNS server sends invalid answers")
async def dns_garbage(harness: Harness) -> Row:
    """No call fails; when its answers are valid again, what has changed is called."""
    listed = await on_dns(harness)
    relay = garbage.Udp(listed.registry.server.address)
    harness.at_end(relay.close)
    listed.config = replace(listed.config, dns=replace(listed.config.dns, servers=(relay.address,)))
    await listed.call()
    return await listed.lost(relay.spoiled.set, relay.spoiled.clear)


async def _garbage(harness: Harness, listed: Listed[EtcdRegistry] | Listed[KubernetesRegistry]) -> Row:
    nonsense = garbage.Tcp()
    harness.at_end(nonsense.close)
    await listed.call()
    proxy = listed.registry.proxy
    return await listed.lost(
        functools.partial(proxy.redirect, nonsense.place),
        functools.partial(proxy.redirect, listed.registry.upstream),
    )


@fault("etcd sends invalid answers", "etcd")
async def etcd_garbage(harness: Harness) -> Row:
    """No call fails; when its answers are valid again, what has changed is called."""
    return await _garbage(harness, await on_etcd(harness))


@fault("Kubernetes API sends invalid answers", "cluster")
async def kubernetes_garbage(harness: Harness) -> Row:
    """No call fails; when its answers are valid again, what has changed is called."""
    return await _garbage(harness, await on_kubernetes(harness))


@fault("etcd cut off and compacted meanwhile", "etcd")
async def etcd_compacted(harness: Harness) -> Row:
    """No call fails; the revision to go on from is gone, so everything is read again."""
    listed = await on_etcd(harness)
    etcd = listed.registry.server
    await listed.call()

    def back() -> None:
        with etcd.client() as client:
            revision = client.range(b"\0", b"\0")[0]
        etcd.control("compact", str(revision))
        listed.registry.up()

    return await listed.lost(listed.registry.down, back)


@fault("etcd killed and restarted", "etcd")
async def etcd_restarted(harness: Harness) -> Row:
    """No call fails; the entries are on its disk, so all three are called on."""
    listed = await on_etcd(harness)
    etcd = listed.registry.server
    await listed.call()
    harness.mark()
    await asyncio.to_thread(etcd.stop)
    await harness.until(lambda: not harness.status().startswith("synced"), "a status that says so")
    harness.keep_status()
    await asyncio.to_thread(etcd.start)
    repaired = time.monotonic()
    await harness.until(lambda: harness.status().startswith("synced"), "a watch that is back")
    harness.recovered_since(repaired)
    await harness.served_by("a", "b", "c")
    return harness.row(not harness.failed(), "over counts from its restart until the watch is back")


@fault("the last known good file's registry is away at the start", "etcd", quick=True)
async def remembered(harness: Harness) -> Row:
    """A client that kept its last set starts with it: no call fails."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    listed = await on_etcd(harness)
    listed.config = replace(listed.config, remember=Remember(folder.name))
    await listed.call()
    await harness.until(lambda: any(Path(folder.name).iterdir()), "a file")
    await harness.stop_calling()
    await asyncio.to_thread(listed.registry.down)
    harness.mark()
    await listed.call()
    harness.keep_status()
    await harness.calm()
    return harness.row(not harness.failed())


def command(name: str) -> None:
    """Run the command of an environment variable."""
    subprocess.run(shlex.split(os.environ[name]), check=True, capture_output=True, timeout=120)


def scale_dns(replicas: int) -> None:
    """So many pods of the cluster's DNS server."""
    kubectl("-n", "kube-system", "scale", "deployment", "coredns", f"--replicas={replicas}")


@fault("API server stopped and started", "cluster", "disturb")
async def api_restarted(harness: Harness) -> Row:
    """No call fails while it is away; its watch comes back by itself."""
    listed = await on_kubernetes(harness)
    await listed.call()
    harness.mark()
    await asyncio.to_thread(command, "FAULTS_STOP_API")
    try:
        await harness.until(lambda: not harness.status().startswith("synced"), "a status that says so")
        harness.keep_status()
        listed.servers[2].kill()
        await asyncio.sleep(5.0)
    finally:
        await asyncio.to_thread(command, "FAULTS_START_API")
    repaired = time.monotonic()
    await harness.until(lambda: harness.status().startswith("synced"), "a watch that is back")
    await listed.servers[3].start()
    await listed.list("a", "b", "d")
    await harness.served_by("a", "b", "d")
    harness.recovered_since(repaired)
    return harness.row(not harness.failed(), "over counts from its return")


@fault("CoreDNS restarted", "cluster", "disturb")
async def coredns_restarted(harness: Harness) -> Row:
    """No call fails while it is away, though a server dies meanwhile."""
    listed = await on_kubernetes(harness)
    await asyncio.to_thread(listed.registry.service)
    harness.target = f"dns-poll:///_grpc._tcp.greeter.{listed.registry.namespace}.svc.cluster.local."
    of_dns = ("-n", "kube-system", "get", "service", "kube-dns", "--output=jsonpath={.spec.clusterIP}")
    address = await asyncio.to_thread(kubectl, *of_dns)
    listed.config = replace(listed.config, dns=Dns(refresh=REFRESH, servers=(f"{address}:53",)))
    await listed.call()
    harness.mark()
    await asyncio.to_thread(scale_dns, 0)
    try:
        await harness.until(lambda: not harness.status().startswith("synced"), "a status that says so")
        harness.keep_status()
        listed.servers[2].kill()
    finally:
        await asyncio.to_thread(scale_dns, 1)
    await harness.until(lambda: harness.status().startswith("synced"), "an answer")
    repaired = time.monotonic() - harness.marked
    await harness.calm()
    return harness.row(not harness.failed(), f"names were resolved again after {repaired:.1f} s")
