"""The load generator: calls at a constant rate, and once a second a log line with the calls by server, errors, and latency. A new
server's first answer has a line of its own, so that logs show to the millisecond when it was discovered."""

import asyncio
import contextlib
import logging
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc.aio

from ..discovery.calls import served_by

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1000
"""The number of concurrent calls from which on calls are not made, but counted as skipped."""
END = 2.0
"""Seconds that calls in flight may take after the last one has begun."""


class LoadGenerator:
    """Calls at a constant rate, whether or not earlier calls have ended, as independent users would.

    call: makes one.   rate: calls per second.   explain: turns gRPC's details of a failed call into a sentence, or nothing.
    """

    def __init__(self, call: Callable[[], Awaitable[object]], rate: float, explain: Callable[[str], str]) -> None:
        self._make, self._rate, self._explain = call, rate, explain
        self._known: set[str] = set()
        self._begin_second()

    def _begin_second(self) -> None:
        self._served, self._errors, self._skipped = Counter[str](), Counter[str](), 0
        self._milliseconds: list[float] = []
        self._reasons: dict[str, str] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Call until `stopping` is set; then wait for the calls in flight."""
        reporting = asyncio.create_task(self._report())
        calls: set[asyncio.Task[None]] = set()
        begun, made = time.monotonic(), 0
        while not stopping.is_set():
            made += 1
            if len(calls) < MAX_IN_FLIGHT:
                calls.add(call := asyncio.create_task(self._call()))
                call.add_done_callback(calls.discard)
            else:
                self._skipped += 1
            with contextlib.suppress(TimeoutError):  # if it is late, this only lets other tasks run
                await asyncio.wait_for(stopping.wait(), max(0.0, begun + made / self._rate - time.monotonic()))
        logger.info("stopping with %d calls in flight", len(calls))
        if calls:
            await asyncio.wait(calls, timeout=END)
        reporting.cancel()
        self._log()

    async def _call(self) -> None:
        started, names = time.monotonic(), list[str]()
        served_by.names.set(names)
        try:
            await self._make()
        except grpc.aio.AioRpcError as error:
            self._errors[error.code().name] += 1
            self._reasons[error.code().name] = error.details() or ""
            return
        server = (names and names[-1]) or "unknown"
        if server not in self._known:
            self._known.add(server)
            logger.info("first answer from %s", server, extra={"first": server})
        self._served[server] += 1
        self._milliseconds.append((time.monotonic() - started) * 1000)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._log()

    def _log(self) -> None:
        for code, details in self._reasons.items():
            sentence = self._explain(details)
            logger.warning("calls fail: %s: %s", code, f"{sentence} ({details})" if sentence else details)
        measured = sorted(self._milliseconds)
        quantiles = statistics.quantiles(measured, n=100) if len(measured) > 1 else measured * 100
        latency = {"p50_ms": round(quantiles[49], 2), "p99_ms": round(quantiles[98], 2)} if measured else {}
        served, errors = dict(sorted(self._served.items())), dict(sorted(self._errors.items()))
        counts = errors | ({"skipped": self._skipped} if self._skipped else {})
        notes = [" ".join(f"{server}={count}" for server, count in served.items()) or "none"]
        notes += [f"{name}={count}" for name, count in counts.items()]
        notes += [f"{name.removesuffix('_ms')} {value} ms" for name, value in latency.items()]
        if served or counts:
            fields = {"served": served, "errors": errors, "skipped": self._skipped, **latency}
            logger.info("served by %s", "  ".join(notes), extra=fields)
        self._begin_second()
