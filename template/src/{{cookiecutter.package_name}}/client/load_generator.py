"""The load generator: calls at a constant rate, and once a second a log line with the calls by server, errors, and latency. A new
server's first answer has a line of its own, so that logs show to the millisecond when it was discovered."""

import asyncio
import contextlib
import logging
import re
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import grpc.aio

from ..calls import served_by
from ..settings import Client

logger = logging.getLogger(__name__)

FORGOTTEN_AFTER = 600.0
"""Seconds of silence after which a server that answers is new again."""
MOST_IN_FLIGHT = 1000
"""Concurrent calls; further ones are not made and counted as skipped."""
LOG_INTERVAL, MOST_REASONS = 60.0, 20
"""Seconds before the same reason is logged again, and the number of reasons in that time: changing texts must not fill the log."""


class Result(NamedTuple):
    """One call. duration: seconds.   server: its name, empty if none answered.   code: gRPC's name."""

    duration: float
    server: str
    code: str


class ErrorLog:
    """Call it for every failed call. explain: gRPC's details in, a sentence or nothing out.   clock: seconds, for tests."""

    def __init__(self, explain: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._explain = explain
        self._clock = clock
        self._logged: dict[tuple[str, str], float] = {}

    def failed(self, code: str, details: str) -> None:
        """`details` as gRPC gives them; a different server's address in them is not a new reason."""
        now = self._clock()
        self._logged = {known: at for known, at in self._logged.items() if at > now - LOG_INTERVAL}
        reason = code, re.sub(r"ipv[46]:\S+:\d+", "a server", details)
        if reason not in self._logged and len(self._logged) < MOST_REASONS:
            self._logged[reason] = now
            sentence = self._explain(details)
            logger.warning("calls fail: %s: %s", code, f"{sentence} ({details})" if sentence else details)


class LoadGenerator:
    """Makes calls at a constant rate, whether or not earlier ones have ended, as independent users would. call: makes one."""

    def __init__(self, call: Callable[[], Awaitable[object]], settings: Client, errors: ErrorLog) -> None:
        self._sample = call
        self._settings = settings
        self._errors = errors
        self._results: list[Result] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._skipped = 0
        self._heard: dict[str, float] = {}  # when each server last answered

    async def run(self, stopping: asyncio.Event) -> None:
        """Call until `stopping` is set; then wait for the calls in flight, each of which has its deadline."""
        reporting = asyncio.create_task(self._report())
        begun, made = time.monotonic(), 0
        while not stopping.is_set():
            made += 1
            if len(self._calls) < MOST_IN_FLIGHT:
                call = asyncio.create_task(self._call())
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            else:
                self._skipped += 1
            with contextlib.suppress(TimeoutError):  # if it is late, this only lets other tasks run
                await asyncio.wait_for(stopping.wait(), max(0.0, begun + made / self._settings.rate - time.monotonic()))
        if self._calls:
            await asyncio.wait(self._calls)
        reporting.cancel()
        self._log()

    async def _call(self) -> None:
        started = time.monotonic()
        try:
            await self._sample()
            server, code = served_by.last.get() or "unknown", "OK"
        except grpc.aio.AioRpcError as error:
            server, code = "", error.code().name
            self._errors.failed(code, error.details() or "")
        ended = time.monotonic()
        if server:
            if server not in self._heard:
                logger.info("first answer from %s", server, extra={"first": server})
            self._heard[server] = ended
        self._results.append(Result(ended - started, server, code))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._log()

    def _log(self) -> None:
        results, self._results = self._results, []
        skipped, self._skipped = self._skipped, 0
        self._heard = {server: at for server, at in self._heard.items() if at > time.monotonic() - FORGOTTEN_AFTER}
        if not results and not skipped:
            return
        served = Counter(result.server for result in results if result.server)
        errors = Counter(result.code for result in results if result.code != "OK")
        milliseconds = sorted(result.duration * 1000 for result in results if result.code == "OK")
        quantiles = statistics.quantiles(milliseconds, n=100) if len(milliseconds) > 1 else milliseconds * 100
        latency = {"p50_ms": round(quantiles[49], 2), "p99_ms": round(quantiles[98], 2)} if milliseconds else {}
        who = " ".join(f"{server}={count}" for server, count in sorted(served.items())) or "none"
        details = {"served": dict(sorted(served.items())), "errors": dict(errors), "skipped": skipped, **latency}
        notes = [*(f"{code}={count}" for code, count in sorted(errors.items())), *([f"skipped={skipped}"] if skipped else [])]
        notes += [f"{name.replace('_ms', '')} {value} ms" for name, value in latency.items()]
        logger.info("served by %s", "  ".join([who, *notes]), extra=details)
