"""What happens to servers, while the registry keeps listing them."""

import asyncio
import os
import signal
import time

import grpc

from discovery import Outliers
from lab.load import Options
from lab.servers import Server

from .catalog import Row, fault
from .harness import Harness
from .stub import Behavior, Stub, failing, slow, stub

EJECTING = Options(outliers=Outliers(interval=5.0, min_requests=5, ejection=10.0, max_ejection=60.0, max_percent=30))
"""Of a client that ejects a server sooner than with gRPC's defaults."""
LATE = {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
"""How calls to a server that hangs end; the second where keepalive ends the connection so late that no time is left for a retry."""
WATCHED = 40.0
"""Seconds for which a server that does not recover is watched."""


@fault("SIGKILL of one of three servers", quick=True)
async def killed(harness: Harness) -> Row:
    """No call fails: calls in flight are retried on another server."""
    first, *others = await harness.servers(3)
    harness.manual(*(server.authority for server in (first, *others)))
    await harness.call()
    await harness.served_by("a", "b", "c")
    harness.mark()
    first.kill()
    await harness.calm()
    return harness.row(not harness.failed())


@fault("SIGKILL of two of four servers")
async def half_killed(harness: Harness) -> Row:
    """No call fails."""
    all_four = await harness.servers(4)
    harness.manual(*(server.authority for server in all_four))
    await harness.call()
    await harness.served_by(*"abcd")
    harness.mark()
    for server in all_four[:2]:
        server.kill()
    await harness.calm()
    return harness.row(not harness.failed())


@fault("all three servers killed, and back", quick=True)
async def all_killed(harness: Harness) -> Row:
    """Calls fail immediately instead of hanging; they succeed again without intervention, on all servers."""
    all_three = await harness.servers(3)
    harness.manual(*(server.authority for server in all_three))
    await harness.call()
    await harness.served_by(*"abc")
    harness.mark()
    for server in all_three:
        server.kill()
    await harness.until(lambda: len(harness.failed()) > 20, "failed calls")
    codes = {result.code for result in harness.failed()}
    await asyncio.gather(*(server.ended() for server in all_three))
    await asyncio.gather(*(server.start() for server in all_three))
    back = time.monotonic()
    await harness.served_by(*"abc")
    await harness.calm()
    late = max(result.started for result in harness.failed()) - back
    return harness.row(codes == {"UNAVAILABLE"}, f"last failed call {max(0.0, late):.1f} s after all were back")


@fault("client started before any server", quick=True)
async def started_first(harness: Harness) -> Row:
    """Calls fail immediately until a server is available, then succeed."""
    [server] = harness.placed("127.0.0.1")
    harness.manual(server.authority)
    harness.mark()
    await harness.call()
    await harness.until(lambda: len(harness.failed()) > 20, "failed calls")
    harness.keep_status()
    await server.start()
    back = time.monotonic()
    await harness.served_by("a")
    await harness.calm()
    late = max(result.started for result in harness.failed()) - back
    return harness.row(
        {result.code for result in harness.failed()} == {"UNAVAILABLE"},
        f"last failed call {max(0.0, late):.1f} s after the server was there",
    )


async def _frozen(harness: Harness, options: Options | None = None) -> tuple[Server, str]:
    """One of three servers is stopped; returns it, and how many calls failed for how long."""
    first, *others = await harness.servers(3)
    harness.manual(*(server.authority for server in (first, *others)))
    await harness.call(options=options)
    await harness.served_by("a", "b", "c")
    assert first.process_id is not None
    harness.at_end(lambda: os.kill(first.process_id or 0, signal.SIGCONT))
    harness.mark()
    os.kill(first.process_id, signal.SIGSTOP)
    await harness.calm()
    return first, f"{len(harness.failed())} calls failed"


@fault("SIGSTOP of one of three servers")
async def frozen(harness: Harness) -> Row:
    """Only calls that were sent to it before it was ejected fail, at their deadline; once it continues it serves again."""
    first, note = await _frozen(harness, EJECTING)
    harness.keep_status()
    row = harness.row(bool(harness.failed()) and {result.code for result in harness.failed()} == {"DEADLINE_EXCEEDED"}, note)
    os.kill(first.process_id or 0, signal.SIGCONT)
    await harness.served_by("a")
    return row


@fault("SIGSTOP of one of three servers, outlier detection off")
async def frozen_without(harness: Harness) -> Row:
    """Only keepalive ejects it."""
    _, note = await _frozen(harness)
    return harness.row({result.code for result in harness.failed()} <= LATE, note)


async def _bad(harness: Harness, behavior: Behavior) -> Stub:
    """A server that does its work badly, until the end."""
    server: Stub = await harness.enter(stub("bad", behavior))
    return server


async def _beside(harness: Harness, seconds: float, bad: Stub, options: Options | None = None) -> str:
    """A bad server beside two good ones, called for so many seconds; how often it was called."""
    good = await harness.servers(2)
    harness.manual(*(server.authority for server in good), bad.authority)
    harness.mark()
    await harness.call(options=options)
    await harness.served_by("a", "b")
    await asyncio.sleep(seconds)
    return f"it was sent {bad.seen} calls in {seconds:g} s"


@fault("one of three servers answers UNAVAILABLE", quick=True)
async def unavailable(harness: Harness) -> Row:
    """A call fails only where all of its three attempts met that server, one in 27, and the server is ejected."""
    bad = await _bad(harness, failing(grpc.StatusCode.UNAVAILABLE))
    note = await _beside(harness, 12.0, bad, EJECTING)
    return harness.row(len(harness.failed()) < len(harness.since()) / 27 and bad.seen < len(harness.since()) / 3, note)


@fault("one of three servers answers UNAVAILABLE, outlier detection off")
async def unavailable_without(harness: Harness) -> Row:
    """About one call in 27 fails, for as long as this lasts."""
    bad = await _bad(harness, failing(grpc.StatusCode.UNAVAILABLE))
    note = await _beside(harness, 12.0, bad)
    return harness.row(len(harness.failed()) < len(harness.since()) / 13, note)


@fault("one of three servers answers INTERNAL")
async def internal(harness: Harness) -> Row:
    """What is not retried fails, until the server is ejected: a sixth of the calls at the most."""
    bad = await _bad(harness, failing(grpc.StatusCode.INTERNAL))
    note = await _beside(harness, WATCHED, bad, EJECTING)
    return harness.row(0 < len(harness.failed()) < len(harness.since()) / 6, note)


@fault("one of three servers answers INTERNAL, outlier detection off")
async def internal_without(harness: Harness) -> Row:
    """A third of the calls fails."""
    bad = await _bad(harness, failing(grpc.StatusCode.INTERNAL))
    note = await _beside(harness, WATCHED, bad)
    return harness.row(len(harness.failed()) > len(harness.since()) / 4, note)


@fault("one of three servers takes longer than the deadline")
async def too_slow(harness: Harness) -> Row:
    """As many calls fail as were sent to it before it was ejected, at their deadline."""
    bad = await _bad(harness, slow(5.0))
    note = await _beside(harness, WATCHED, bad, EJECTING)
    codes = {result.code for result in harness.failed()}
    return harness.row(codes == {"DEADLINE_EXCEEDED"} and len(harness.failed()) < len(harness.since()) / 6, note)


@fault("one of three servers takes half a second")
async def half_a_second(harness: Harness) -> Row:
    """No call fails, and nothing ejects it: only status codes count, not durations."""
    bad = await _bad(harness, slow(0.5))
    note = await _beside(harness, 12.0, bad, EJECTING)
    return harness.row(not harness.failed() and bad.seen > len(harness.since()) / 4, note)
