"""The long runs: each is a promise that either holds or does not, with the figures that it holds by."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

import discovery

from .peers import method, servers
from .report import Row, row


@dataclass(frozen=True)
class Outcome:
    """What was promised, the figures that it holds by, and what was said where it does not."""

    promise: str
    rows: tuple[Row, ...]
    wrong: Sequence[str] = ()

    @property
    def held(self) -> bool:
        return not self.wrong and all(each.met is not False for each in self.rows)


def _memory() -> float:
    """Resident megabytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


Sample = tuple[float, int, int]
"""Megabytes, threads, descriptors of this process."""


def _middle(samples: Sequence[Sample]) -> Sample:
    """Of each."""
    memory, threads, descriptors = zip(*samples, strict=True)
    return statistics.median(memory), round(statistics.median(threads)), round(statistics.median(descriptors))


async def _many() -> Outcome:
    failed: Counter[str] = Counter()
    with servers(2) as ports:
        manual = discovery.Manual(uuid.uuid4().hex)
        manual.set(discovery.Endpoint(f"127.2.{number // 250}.{number % 250 + 1}", ports[number % 2]) for number in range(1000))
        async with discovery.aio.insecure_channel(manual.target) as channel:
            call = method(channel)

            async def once() -> None:
                try:
                    await call(b"x", timeout=60)
                except grpc.aio.AioRpcError as error:
                    failed[f"{error.code().name}: {error.details()}"] += 1

            for _ in range(3):
                await asyncio.gather(*(once() for _ in range(3000)))
    what = "1,000 endpoints, 3,000 concurrent calls, three times"
    return Outcome(f"{what}: none fails", (row(f"{what}: failed calls", "calls", [failed.total()], 0),), list(failed))


async def _changes(seconds: float) -> Outcome:
    failed: Counter[str] = Counter()
    made = pushes = 0
    with servers(8) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        manual = discovery.Manual(uuid.uuid4().hex)
        manual.set(addresses)
        async with discovery.aio.insecure_channel(manual.target) as channel:
            call = method(channel)
            end = time.monotonic() + seconds
            samples: list[Sample] = []

            async def loop() -> None:
                nonlocal made
                while time.monotonic() < end:
                    made += 1
                    try:
                        await call(b"x", timeout=20)
                    except grpc.aio.AioRpcError as error:
                        failed[f"{error.code().name}: {error.details()}"] += 1
                    await asyncio.sleep(0)

            loops = asyncio.gather(*(loop() for _ in range(16)))
            while time.monotonic() < end:
                manual.set(random.sample(addresses, random.randint(2, 7)))
                pushes += 1
                await asyncio.sleep(0.1)
                samples.append((_memory(), threading.active_count(), _descriptors()))
            await loops
            nacks = discovery.status(manual.target).nacks
    # What is allocated once is allocated by then. Single moments say little: connections come and go ten times a second.
    settled = samples[round(len(samples) * min(30.0, seconds / 3) / seconds) :]
    tenth = len(settled) // 10 + 1
    early, late = _middle(settled[:tenth]), _middle(settled[-tenth:])
    what = f"{seconds:g} s with a change every 100 ms, 16 loops, no retry"
    memory, threads, descriptors = (after - before for before, after in zip(early, late, strict=True))
    rows = (
        row(f"{what}: calls", "calls", [made]),
        row(f"{what}: changes", "changes", [pushes]),
        row(f"{what}: failed calls", "calls", [failed.total()], 0),
        row(f"{what}: sets that gRPC refused", "sets", [nacks], 0),
        row(f"{what}: growth of memory", "MB", [memory], 5),
        row(f"{what}: growth of threads", "threads", [threads], 2),
        row(f"{what}: growth of descriptors", "descriptors", [descriptors], 10),
    )
    return Outcome(f"{what}: none fails, memory flat", rows, list(failed))


_EXITING = """
import asyncio, sys, threading, time
import grpc, discovery
address, end, kind = sys.argv[1:]
manual = discovery.Manual("x")
manual.set([address])
def change():
    while True:
        manual.set([address, "127.0.0.1:1"]); manual.set([address])
def traffic():
    call = discovery.insecure_channel(manual.target).unary_unary("/test.Echo/Say")
    call(b"x", timeout=20); ready.set()
    while True:
        call(b"x", timeout=20)
def finish():
    if end == "exit": sys.exit(3)
    if end == "error": raise ValueError("mine")
async def main():
    call = discovery.aio.insecure_channel(manual.target).unary_unary("/test.Echo/Say")
    await call(b"x", timeout=20)
    pending = [asyncio.ensure_future(call(b"x", timeout=20)) for _ in range(20)]
    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*pending)
threading.Thread(target=change, daemon=True).start()
if kind == "sync":
    ready = threading.Event()
    for _ in range(2):
        threading.Thread(target=traffic, daemon=True).start()
    ready.wait(20)
else:
    asyncio.run(main())
finish()
"""


def _exits(times: int = 50) -> Outcome:
    wrong: list[str] = []
    environment = {**os.environ, "PYTHONPATH": str(Path(discovery.__file__).parents[1])}
    with servers(1) as [port]:
        for number in range(times):
            end, kind = ("normal", "exit", "error")[number % 3], ("sync", "aio")[number % 2]
            try:
                command = [sys.executable, "-c", _EXITING, f"127.0.0.1:{port}", end, kind]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            except subprocess.TimeoutExpired:
                wrong.append(f"{kind} {end}: hangs")
                continue
            quiet = not done.stderr or (
                end == "error" and done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: mine\n")
            )
            if done.returncode != {"normal": 0, "exit": 3, "error": 1}[end] or not quiet:
                wrong.append(f"{kind} {end}: status {done.returncode}, {done.stderr[-300:]}")
    what = f"{times} exits with open channels, mid-traffic"
    return Outcome(f"{what}: clean, quiet, status kept", (row(f"{what}: wrong ones", "exits", [len(wrong)], 0),), wrong)


def _channels(times: int = 2000) -> Outcome:
    hung = 0
    with servers(1) as [port]:
        manual = discovery.Manual(uuid.uuid4().hex)
        manual.set([f"127.0.0.1:{port}"])
        before: tuple[int, int] | None = None
        for number in range(times):
            with discovery.insecure_channel(manual.target) as channel:
                try:
                    method(channel)(b"x", timeout=20)
                except grpc.RpcError:
                    hung += 1
            if number == times // 10:
                before = threading.active_count(), _descriptors()
        after = threading.active_count(), _descriptors()
    assert before is not None
    what = f"{times:,} channels opened, used and closed"
    rows = (
        row(f"{what}: hung or failed", "channels", [hung], 0),
        row(f"{what}: growth of threads", "threads", [after[0] - before[0]], 5),
        row(f"{what}: growth of descriptors", "descriptors", [after[1] - before[1]], 20),
    )
    return Outcome(f"{what}: none hangs", rows)


def run(seconds: float) -> Iterator[Outcome]:
    """All of them, one after the other."""
    parts: list[Callable[[], Outcome]] = [lambda: asyncio.run(_many()), _exits, _channels, lambda: asyncio.run(_changes(seconds))]
    for part in parts:
        yield part()
