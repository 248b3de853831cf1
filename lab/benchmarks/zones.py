"""Zone preference: who serves a client that has a zone of its own, while that zone is well, dead, back, or too small."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

import discovery

from .peers import method
from .report import Row, row

RATE = 500
"""Calls a second."""

COUNTED = 4.0
"""Seconds over which shares are counted."""

DOWN = float(os.environ.get("BENCH_ZONE_DOWN", "10"))
"""Seconds for which the own zone is dead; the longer, the longer gRPC waits between its attempts to connect."""

DEADLINE = 150.0
"""Seconds for the own zone to serve alone again: gRPC's longest wait between attempts is 120."""

Told = Callable[[bytes | None, float, float], None]
"""Who answered a call, None for nobody, when it began, and when it ended (time.monotonic)."""


@contextlib.asynccontextmanager
async def traffic(call: Any, rate: float, told: Told) -> AsyncIterator[None]:
    """So many calls a second, begun on time whatever becomes of those before."""
    calls: set[asyncio.Task[None]] = set()

    async def once() -> None:
        began = time.monotonic()
        try:
            who: bytes | None = await call(b"x", timeout=20)
        except grpc.aio.AioRpcError:
            who = None
        told(who, began, time.monotonic())

    async def begin() -> None:
        began, made = time.perf_counter(), 0
        while True:
            made += 1
            task = asyncio.create_task(once())
            calls.add(task)
            task.add_done_callback(calls.discard)
            await asyncio.sleep(max(0.0, began + made / rate - time.perf_counter()))

    going = asyncio.create_task(begin())
    try:
        yield
    finally:
        going.cancel()
        await asyncio.gather(going, *calls, return_exceptions=True)


_SERVER = """
import asyncio, sys
import grpc, grpc.aio

async def main():
    async def say(request, context):
        return sys.argv[1].encode()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    server.add_insecure_port(sys.argv[2])
    await server.start()
    print("up", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


class _Zone:
    """The servers of one zone, a process each, at addresses that stay theirs when they are killed and come back."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            self.endpoints = [discovery.Endpoint("127.0.0.1", each.getsockname()[1], zone=name) for each in sockets]
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", _SERVER, self.name, endpoint.authority],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for endpoint in self.endpoints
        ]  # fmt: skip
        for process in self._processes:
            if process.stdout is None or process.stdout.readline() != "up\n":
                raise RuntimeError(f"a server of zone {self.name} does not start")

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes = []


@contextlib.contextmanager
def _zones(**counts: int) -> Iterator[list[_Zone]]:
    found = [_Zone(name, count) for name, count in counts.items()]
    try:
        for zone in found:
            zone.start()
        yield found
    finally:
        for zone in found:
            zone.kill()


class _Seen:
    """What became of the calls since the last `begin`. The own zone is called `own`."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.own = self.other = self.failed = self.own_in_a_row = 0
        self.first_other: float | None = None
        self.last_other = time.monotonic()

    def told(self, who: bytes | None, began: float, when: float) -> None:
        if who is None:
            self.failed += 1
            self.own_in_a_row = 0
        elif who == b"own":
            self.own += 1
            self.own_in_a_row += 1
        else:
            self.other += 1
            self.own_in_a_row = 0
            self.first_other = self.first_other or when
            self.last_other = when

    @property
    def share(self) -> float:
        return self.own / max(1, self.own + self.other)


@contextlib.asynccontextmanager
async def _client(zones: list[_Zone], seen: _Seen) -> AsyncIterator[None]:
    """A channel to all of them from a client in the zone `own`, with calls going on."""
    manual = discovery.Manual(uuid.uuid4().hex)
    manual.set(endpoint for zone in zones for endpoint in zone.endpoints)
    async with discovery.aio.insecure_channel(manual.target, config=discovery.Config(zone="own")) as channel:
        await method(channel)(b"x", timeout=20)
        async with traffic(method(channel), RATE, seen.told):
            await asyncio.sleep(1)
            yield


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110  the wait ends by itself
        await asyncio.sleep(0.01)


async def _spill(zones: list[_Zone], down: float) -> list[Row]:
    rows, seen, own = [], _Seen(), zones[0]
    async with _client(zones, seen):
        seen.begin()
        await asyncio.sleep(COUNTED)
        rows.append(row("share of the own zone, 2 servers in each of 3 zones", "ratio", [seen.share], 0.99, at_least=True))
        seen.begin()
        killed = time.monotonic()
        await asyncio.to_thread(own.kill)
        await _until(lambda: seen.first_other is not None, 30)
        spilled = ((seen.first_other or float("inf")) - killed) * 1000
        await asyncio.sleep(max(0.0, down - (time.monotonic() - killed)))
        rows.append(row("own zone killed: until another zone answers", "ms", [spilled]))
        rows.append(row(f"own zone killed and dead for {down:g} s, no retry: failed calls at {RATE}/s", "calls", [seen.failed]))
        seen.begin()
        await asyncio.to_thread(own.start)
        back = time.monotonic()
        await _until(lambda: seen.own_in_a_row >= RATE, DEADLINE)
        alone = seen.last_other - back if seen.own_in_a_row >= RATE else float("inf")
        rows.append(row(f"own zone back after {down:g} s: until it serves alone", "s", [max(0.0, alone)]))
        rows.append(row("own zone back: failed calls", "calls", [seen.failed], 0))
    return rows


async def _too_few(zones: list[_Zone]) -> Row:
    seen = _Seen()
    async with _client(zones, seen):
        seen.begin()
        await asyncio.sleep(COUNTED)
    listed = [len(zone.endpoints) for zone in zones]
    return row(
        f"share of the own zone with 1 of {sum(listed)} servers (fair: {listed[0] / sum(listed):.3f})", "ratio", [seen.share]
    )


def measure(quick: bool) -> Iterator[Row]:
    """Endpoints stay listed while they are dead, so what is measured is gRPC's fail-over between priorities, not a registry."""
    with _zones(own=2, second=2, third=2) as zones:
        yield from asyncio.run(_spill(zones, min(DOWN, 1.0) if quick else DOWN))
    with _zones(own=1, second=4, third=4) as zones:
        yield asyncio.run(_too_few(zones))
