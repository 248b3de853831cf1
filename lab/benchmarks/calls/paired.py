"""Two channels of one process, compared in turns: CPU per call and calls per second, as ratios.

Differences of a hundredth are looked for on machines that vary by a tenth. So each sample is two short runs of each side in the order
A B B A, which takes out what drifts; and channels are opened anew again and again, because two channels that are opened alike differ
by a hundredth, too, for as long as they live.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc
import grpc.aio

import discovery

from ..peers import method
from ..report import fewer

PAIRS, SAMPLES, CALLS = 8, 7, 240
"""Pairs of channels, samples of each, and calls of each run."""

Call = Callable[..., Any]


@dataclass(frozen=True)
class Style:
    """How a program makes its calls."""

    asyncio: bool
    workers: int

    @property
    def name(self) -> str:
        return f"{'aio' if self.asyncio else 'sync'}, {self.workers} {'task' if self.asyncio else 'thread'}{'s' * (self.workers > 1)}"

    @property
    def grpc(self) -> ModuleType:
        return grpc.aio if self.asyncio else grpc

    @property
    def discovery(self) -> ModuleType:
        return discovery.aio if self.asyncio else discovery

    async def close(self, channel: Any) -> None:
        if self.asyncio:
            await channel.close()
        else:
            channel.close()


STYLES = tuple(Style(asyncio, workers) for asyncio in (False, True) for workers in (1, 16))

Side = Callable[[Style], tuple[Any, Callable[[], object]]]
"""Opens a channel; also returns what to do after it was closed."""


@dataclass
class Ratios:
    """First side over the second; a list for each pair of channels."""

    cpu: list[list[float]] = field(default_factory=list)
    rate: list[list[float]] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    """Of CPU per call of the first side."""


def compare(style: Style, first: Side, second: Side, quick: bool) -> Ratios:
    """In this process; what else it does must be nothing."""
    return asyncio.run(_compare(style, first, second, quick))


async def _compare(style: Style, first: Side, second: Side, quick: bool) -> Ratios:
    found, count = Ratios(), fewer(CALLS // style.workers, quick)
    with ThreadPoolExecutor(style.workers) as pool:
        for number in range(fewer(PAIRS, quick)):
            found.cpu.append([])
            found.rate.append([])
            async with contextlib.AsyncExitStack() as stack:
                sides = [await stack.enter_async_context(_call(style, side)) for side in (first, second)[:: 1 - number % 2 * 2]]
                calls = sides[:: 1 - number % 2 * 2]
                for call in calls:
                    await _run(style, call, pool, count)
                for _ in range(fewer(SAMPLES, quick)):
                    (a, at), (b, bt), (c, ct), (d, dt) = [await _run(style, calls[n], pool, count) for n in (0, 1, 1, 0)]
                    found.cpu[-1].append((a + d) / (b + c))
                    found.rate[-1].append((bt + ct) / (at + dt))
                    found.microseconds.append((a + d) / 2 / count / style.workers * 1e6)
    return found


@contextlib.asynccontextmanager
async def _call(style: Style, side: Side) -> AsyncIterator[Call]:
    """The method of a channel that has its connections."""
    channel, after = side(style)
    call = method(channel)
    try:
        answers = {await _of(call(b"x", timeout=20, wait_for_ready=True)) for _ in range(5)}
        while len(answers) < 3:  # until every server answers
            answers.add(await _of(call(b"x", timeout=20)))
        yield call
    finally:
        await style.close(channel)
        after()


async def _of(answer: Awaitable[bytes] | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else await answer


async def _run(style: Style, call: Call, pool: ThreadPoolExecutor, count: int) -> tuple[float, float]:
    """Seconds of CPU and of time for so many calls of each worker."""

    def thread() -> None:
        for _ in range(count):
            call(b"x", timeout=20)

    async def task() -> None:
        for _ in range(count):
            await call(b"x", timeout=20)

    cpu, moment = time.process_time(), time.perf_counter()
    if style.asyncio:
        await asyncio.gather(*(task() for _ in range(style.workers)))
    else:
        for done in [pool.submit(thread) for _ in range(style.workers)]:
            done.result()
    return time.process_time() - cpu, time.perf_counter() - moment
