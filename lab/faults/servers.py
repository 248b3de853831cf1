"""What happens to servers, while the registry goes on listing them."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from lab.demo.servers import Server

from .catalogue import Row, fault
from .harness import Trial

OFF = {"outliers": {"threshold": 0}}
"""Settings of a client that takes no server out."""
WATCHED = 40.0
"""Seconds for which a server that does not mend is watched."""


@fault("SIGKILL of one of three servers", quick=True)
async def killed(trial: Trial) -> Row:
    """No call fails: what was under way is made again on another server."""
    first, *others = await trial.servers(3)
    trial.manual(*(server.authority for server in (first, *others)))
    await trial.call()
    await trial.served_by("a", "b", "c")
    trial.mark()
    first.kill()
    await trial.calm()
    return trial.row(not trial.failed())


@fault("SIGKILL of two of four servers")
async def half_killed(trial: Trial) -> Row:
    """No call fails."""
    all_four = await trial.servers(4)
    trial.manual(*(server.authority for server in all_four))
    await trial.call()
    await trial.served_by(*"abcd")
    trial.mark()
    for server in all_four[:2]:
        server.kill()
    await trial.calm()
    return trial.row(not trial.failed())


@fault("all three servers killed, and back", quick=True)
async def all_killed(trial: Trial) -> Row:
    """Calls fail at once rather than hang; they go well again by themselves, at all servers."""
    all_three = await trial.servers(3)
    trial.manual(*(server.authority for server in all_three))
    await trial.call()
    await trial.served_by(*"abc")
    trial.mark()
    for server in all_three:
        server.kill()
    await trial.until(lambda: len(trial.failed()) > 20, "failed calls")
    codes = {result.code for result in trial.failed()}
    await asyncio.gather(*(server.ended() for server in all_three))
    await asyncio.gather(*(server.start() for server in all_three))
    back = time.monotonic()
    await trial.served_by(*"abc")
    await trial.calm()
    late = max(result.started for result in trial.failed()) - back
    return trial.row(codes == {"UNAVAILABLE"}, f"last failed call {max(0.0, late):.1f} s after all were back")


@fault("client started before any server", quick=True)
async def started_first(trial: Trial) -> Row:
    """Calls fail at once until a server is there, then go well by themselves."""
    [server] = trial.placed("127.0.0.1")
    trial.manual(server.authority)
    trial.mark()
    await trial.call()
    await trial.until(lambda: len(trial.failed()) > 20, "failed calls")
    trial.look()
    await server.start()
    back = time.monotonic()
    await trial.served_by("a")
    await trial.calm()
    late = max(result.started for result in trial.failed()) - back
    return trial.row(
        {result.code for result in trial.failed()} == {"UNAVAILABLE"},
        f"last failed call {max(0.0, late):.1f} s after the server was there",
    )


async def _frozen(trial: Trial, **client: Any) -> tuple[Server, str]:
    """One of three servers is stopped; returns it, and how many calls failed for how long."""
    first, *others = await trial.servers(3)
    trial.manual(*(server.authority for server in (first, *others)))
    await trial.call(**client)
    await trial.served_by("a", "b", "c")
    assert first.process_id is not None
    trial.later(lambda: os.kill(first.process_id or 0, signal.SIGCONT))
    trial.mark()
    os.kill(first.process_id, signal.SIGSTOP)
    await trial.calm()
    return first, f"{len(trial.failed())} calls failed"


@fault("SIGSTOP of one of three servers")
async def frozen(trial: Trial) -> Row:
    """Only calls that were sent to it before it was taken out fail, by their deadline; once it goes on it serves again."""
    first, note = await _frozen(trial)
    trial.look()
    row = trial.row(bool(trial.failed()) and {result.code for result in trial.failed()} == {"DEADLINE_EXCEEDED"}, note)
    os.kill(first.process_id or 0, signal.SIGCONT)
    await trial.served_by("a")
    return row


@fault("SIGSTOP of one of three servers, outlier detection off")
async def frozen_without(trial: Trial) -> Row:
    """Keepalive alone takes it out."""
    _, note = await _frozen(trial, **OFF)
    return trial.row({result.code for result in trial.failed()} == {"DEADLINE_EXCEEDED"}, note)


class _Bad(greeter_pb2_grpc.GreeterServiceServicer):
    """Answers after `delay` seconds, or with a status; `seen` counts the calls."""

    def __init__(self, delay: float, code: grpc.StatusCode | None) -> None:
        self._delay = delay
        self._code = code
        self.seen = 0

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.seen += 1
        if self._code is not None:
            await context.abort(self._code, "out of order")
        await asyncio.sleep(self._delay)
        return greeter_pb2.GreetResponse(served_by="bad")

    def WatchGreetings(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


@contextlib.asynccontextmanager
async def _bad(delay: float = 0.0, code: grpc.StatusCode | None = None) -> AsyncIterator[tuple[_Bad, str]]:
    """A server that does its work badly, and its address."""
    servicer = _Bad(delay, code)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def _beside(trial: Trial, seconds: float, bad: tuple[_Bad, str], **client: Any) -> str:
    """A bad server beside two good ones, called for so many seconds; what it saw."""
    servicer, address = bad
    good = await trial.servers(2)
    trial.manual(*(server.authority for server in good), address)
    trial.mark()
    await trial.call(**client)
    await trial.served_by("a", "b")
    await asyncio.sleep(seconds)
    return f"it was sent {servicer.seen} calls in {seconds:g} s"


@fault("one of three servers answers UNAVAILABLE", quick=True)
async def unavailable(trial: Trial) -> Row:
    """A call fails only where all of its three attempts met that server, one in 27, and the server is taken out."""
    bad = await trial.enter(_bad(code=grpc.StatusCode.UNAVAILABLE))
    note = await _beside(trial, 12.0, bad)
    return trial.row(len(trial.failed()) < len(trial.since()) / 27 and bad[0].seen < len(trial.since()) / 3, note)


@fault("one of three servers answers UNAVAILABLE, outlier detection off")
async def unavailable_without(trial: Trial) -> Row:
    """About one call in 27 fails, for as long as this lasts."""
    bad = await trial.enter(_bad(code=grpc.StatusCode.UNAVAILABLE))
    note = await _beside(trial, 12.0, bad, **OFF)
    return trial.row(len(trial.failed()) < len(trial.since()) / 13, note)


@fault("one of three servers answers INTERNAL")
async def internal(trial: Trial) -> Row:
    """What is not retried fails, until the server is taken out: a sixth of the calls at the most."""
    bad = await trial.enter(_bad(code=grpc.StatusCode.INTERNAL))
    note = await _beside(trial, WATCHED, bad)
    return trial.row(0 < len(trial.failed()) < len(trial.since()) / 6, note)


@fault("one of three servers answers INTERNAL, outlier detection off")
async def internal_without(trial: Trial) -> Row:
    """A third of the calls fails."""
    bad = await trial.enter(_bad(code=grpc.StatusCode.INTERNAL))
    note = await _beside(trial, WATCHED, bad, **OFF)
    return trial.row(len(trial.failed()) > len(trial.since()) / 4, note)


@fault("one of three servers takes longer than the deadline")
async def too_slow(trial: Trial) -> Row:
    """As many calls fail as were sent to it before it was taken out, by their deadline."""
    bad = await trial.enter(_bad(delay=5.0))
    note = await _beside(trial, WATCHED, bad)
    codes = {result.code for result in trial.failed()}
    return trial.row(codes == {"DEADLINE_EXCEEDED"} and len(trial.failed()) < len(trial.since()) / 6, note)


@fault("one of three servers takes half a second")
async def slow(trial: Trial) -> Row:
    """No call fails, and nothing takes it out: only answers count, not how long they take."""
    bad = await trial.enter(_bad(delay=0.5))
    note = await _beside(trial, 12.0, bad)
    return trial.row(not trial.failed() and bad[0].seen > len(trial.since()) / 4, note)
