"""A project's servers restarted one after the other while a client calls without retries: how many calls fail?

Servers are the project's processes and end by its drain. On `static` nothing but their health tells the client; on `etcd` they
register and deregister themselves. The next server goes when the one before is SERVING, as in a Deployment.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import discovery
from discovery.testing import etcd
from lab.load import Client, Load, Options, Result
from lab.project import Project
from lab.servers import Server, places

from .report import Row, row

ROUNDS, CALLS, RATE = 5, 10_000, 1000
ADDRESSES = ("127.0.2.1", "127.0.2.2", "127.0.2.3")


@dataclass
class Round:
    """One restart of all servers. enough: set when `wanted` calls have ended.   slowest: milliseconds."""

    wanted: int
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    failed: int = 0
    slowest: float = 0.0

    def add(self, result: Result) -> None:
        self.calls += 1
        self.failed += result.code != "OK"
        self.slowest = max(self.slowest, result.duration * 1000)
        if self.calls >= self.wanted:
            self.enough.set()


def measure(project: Project, rounds: int = ROUNDS, calls: int = CALLS) -> Iterator[Row]:
    """A call that waits for a server counts as slow, not as failed: its deadline is 20 s."""
    yield from _rows("static", asyncio.run(_rounds(project, "", rounds, calls)))
    if shutil.which("etcd"):
        with etcd() as server:
            yield from _rows("etcd", asyncio.run(_rounds(project, server.address, rounds, calls)))


def _rows(name: str, found: list[Round]) -> Iterator[Row]:
    what = f"{name}: {len(found)} rolling restarts of 3 servers, no retry"
    yield row(f"{what}: calls in each", "calls", [each.calls for each in found], CALLS, at_least=True)
    yield row(f"{what}: failed calls in all", "calls", [sum(each.failed for each in found)], 0)
    yield row(f"{what}: the slowest call in each", "ms", [each.slowest for each in found])


async def _rounds(project: Project, registry: str, rounds: int, calls: int) -> list[Round]:
    servers = [Server(project, f"server-{number}", *place) for number, place in enumerate(places(ADDRESSES), 1)]
    target, config = "static:///" + ",".join(server.authority for server in servers), discovery.Config()
    if registry:
        target, config = "etcd:///rolling", discovery.Config(etcd=discovery.Etcd(endpoints=(registry,)))
        for server in servers:
            server.settings = {
                "REGISTRATION__TARGET": target,
                "REGISTRATION__ADDRESS": server.authority,
                "DISCOVERY__ETCD__ENDPOINTS": json.dumps([registry]),
            }
    found = [Round(calls)]
    try:
        for server in servers:
            await server.start()
        async with Client(target, Options(timeout=20.0, retries=False, config=config)) as client:
            await client.call()
            stopping = asyncio.Event()
            calling = asyncio.create_task(Load(client, RATE, lambda result: found[-1].add(result)).run(stopping))
            for number in range(rounds):
                if number:
                    found.append(Round(calls))
                for server in servers:
                    server.drain()
                    await server.ended()
                    await server.start()
                await found[-1].enough.wait()
            stopping.set()
            await calling
    finally:
        await asyncio.gather(*(server.close() for server in servers))
    return found
