"""More calls than a server takes, and connections that are no calls at all."""

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab.load_generator import LoadGenerator

from .catalog import NotTriedError, Row, fault
from .harness import Harness
from .methods import methods
from .stub import busy, stub

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What makes a connection one of HTTP/2: the preface and empty SETTINGS (RFC 9113)."""


@fault("server at its limit of calls", quick=True)
async def shedding(harness: Harness) -> Row:
    """What is above the limit is rejected with RESOURCE_EXHAUSTED and not retried; health stays SERVING and prompt."""
    [server] = await harness.servers(1, SERVER__MAX_CONCURRENT_RPCS="20")
    harness.manual(server.authority)
    async with grpc.aio.insecure_channel(server.authority) as channel:
        found = await methods(harness.project, server.authority)
        stream: Any = channel.unary_stream(found.stream)
        held = [stream(b"", timeout=60) for _ in range(20)]
        await asyncio.gather(*(stream.initial_metadata() for stream in held))
        if any(stream.done() for stream in held):
            raise NotTriedError(f"{found.stream} ended at once; a stream that goes on is needed")
        harness.mark()
        await harness.call(rate=500.0, method=found.unary)
        took: list[float] = []
        check = health_pb2_grpc.HealthStub(channel).Check
        for _ in range(30):
            began = time.monotonic()
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
        refused = {result.code for result in harness.since()}
        count = len(harness.failed())
        for stream in held:
            stream.cancel()
        repaired = time.monotonic()
        await harness.until(
            lambda: any(result.started > repaired and result.code != "RESOURCE_EXHAUSTED" for result in harness.results),
            "a call that is admitted",
        )
        harness.recovered_since(repaired)
    took.sort()
    note = f"{count} refused in 3 s while 20 streams hold all places; health answered in {took[15] * 1000:.0f} ms (median), {took[-1] * 1000:.0f} ms (longest)"
    return harness.row(refused == {"RESOURCE_EXHAUSTED"} and took[-1] < 1.0, note)


OFFERED, LIMIT, SECONDS = 300.0, 5, 0.05
"""Calls a second of the client; and how many the server takes at a time, each for so many seconds: a third of them."""


async def _overloaded(harness: Harness) -> tuple[Row, float, float]:
    """The project's own client at a server that takes a third; the row, and the calls tried and served, a second."""
    async with stub("busy", busy(LIMIT, SECONDS)) as server:
        client = LoadGenerator(harness.project, f"static:///{server.authority}", OFFERED)
        try:
            await harness.until(lambda: len(client.seconds()) > 4, "lines of the client's")  # until its budget is used up
            before, seen, served, began = len(client.seconds()), server.seen, server.served, time.monotonic()
            await harness.until(lambda: len(client.seconds()) >= before + 6, "lines of the client's")
            seconds = time.monotonic() - began
            tried, answered = (server.seen - seen) / seconds, (server.served - served) / seconds
            errors = sum((Counter(line["errors"]) for line in client.seconds()[before:]), Counter[str]())
            calls = errors.total() + sum(sum(line["served"].values()) for line in client.seconds()[before:])
            warnings = [line["message"] for line in client.lines() if line.get("severity") not in (None, "INFO")]
        finally:
            client.close()
    codes = ", ".join(code for code, _ in errors.most_common())
    row = Row(
        harness.fault.name, harness.fault.promise, False, calls, errors.total(), None, "not asked", warnings[0] if warnings else "nothing",
        f"a second: {OFFERED:.0f} offered, {tried:.0f} tried, {answered:.0f} served", codes,
    )  # fmt: skip
    return row, tried, answered


@fault("three times the load that can be served", quick=True)
async def throttled(harness: Harness) -> Row:
    """The throttle keeps retries from adding load: hardly more calls are tried than offered, and as many are served as can be."""
    row, tried, served = await _overloaded(harness)
    return replace(row, held=tried < 1.2 * OFFERED and served > 60)


@contextlib.contextmanager
def _connections(place: tuple[str, int], count: int, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.append(stack.enter_context(socket.create_connection(place, 5)))
                made[-1].sendall(first_bytes)
        yield made


def _closed(connections: list[socket.socket], seconds: float) -> list[float]:
    """How many seconds each was left open, of those that were closed within `seconds`."""
    began = time.monotonic()
    found = []
    for connection in connections:
        with contextlib.suppress(TimeoutError):
            connection.settimeout(max(0.01, began + seconds - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
            found.append(time.monotonic() - began)
    return found


async def _answers(authority: str, timeout: float) -> None:
    """A new connection is served."""
    async with grpc.aio.insecure_channel(authority) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        await check(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)


async def _attacked(harness: Harness, first_bytes: bytes, limit: float, **settings: str) -> Row:
    [server] = harness.placed("127.0.0.1", settings=settings)
    await server.start()
    harness.manual(server.authority)
    await harness.call()
    await harness.served_by("a")
    harness.mark()
    with _connections((server.address, server.port), 200, first_bytes) as connections:
        at_once = len(await asyncio.to_thread(_closed, connections, 0.5))
        later = await asyncio.to_thread(_closed, connections, 10 * limit)
    await _answers(server.authority, 10)
    note = f"of 200 connections {at_once} were closed at once, all {len(later)} after {0.5 + max(later):.1f} s"
    return harness.row(not harness.failed() and len(later) == len(connections) and at_once >= 140, note)


def _limits(connections: int, time: str) -> str:
    """gRPC's options for so many connections, and 2 s for what `time` names."""
    return json.dumps({"grpc.max_allowed_incoming_connections": connections, time: 2000})


@fault("200 connections that never send a byte", quick=True)
async def silent_connections(harness: Harness) -> Row:
    """Above the limit of connections they are closed at once, the others after the handshake's time; no call fails."""
    return await _attacked(harness, b"", 2.0, GRPC_OPTIONS=_limits(50, "grpc.server_handshake_timeout_ms"))


@fault("200 connections that never make a call")
async def idle_connections(harness: Harness) -> Row:
    """Above the limit of connections they are closed at once, the others after the idle time; no call fails."""
    return await _attacked(harness, PREFACE, 2.0, GRPC_OPTIONS=_limits(50, "grpc.max_connection_idle_ms"))


@fault("server out of file descriptors")
async def server_without_descriptors(harness: Harness) -> Row:
    """No call fails on the connections there are; when the others go, new ones are accepted again."""
    [server] = harness.placed("127.0.0.1", settings={"GRPC_OPTIONS": _limits(10**9, "grpc.server_handshake_timeout_ms")})
    server.through = ("prlimit", "--nofile=60")
    await server.start()
    harness.manual(server.authority)
    await harness.call()
    await harness.served_by("a")
    harness.mark()
    with _connections((server.address, server.port), 200, b"") as connections:
        await asyncio.sleep(3.0)
        open_now = len(connections) - len(await asyncio.to_thread(_closed, connections, 0.5))
    repaired = time.monotonic()
    await _answers(server.authority, 60)
    harness.recovered_since(repaired)
    return harness.row(
        not harness.failed(), f"{open_now} of 200 connections waited; over counts from their end to a new one that was served"
    )


@fault("oversized messages and metadata", quick=True)
async def oversized(harness: Harness) -> Row:
    """Both are refused with RESOURCE_EXHAUSTED; other calls on the same connection succeed."""
    [server] = await harness.servers(1)
    harness.manual(server.authority)
    await harness.call()
    await harness.served_by("a")
    harness.mark()
    codes = []
    async with grpc.aio.insecure_channel(server.authority) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service, metadata in (("x" * 5_000_000, ()), ("", (("heavy", "x" * 60_000),))):
            try:
                await check(health_pb2.HealthCheckRequest(service=service), timeout=10, metadata=metadata)
                codes.append("OK")
            except grpc.aio.AioRpcError as error:
                codes.append(error.code().name)
            await check(health_pb2.HealthCheckRequest(), timeout=10)
    await asyncio.sleep(1.0)
    return harness.row(
        codes == ["RESOURCE_EXHAUSTED"] * 2 and not harness.failed(), f"5 MB: {codes[0]}; 60 kB of metadata: {codes[1]}"
    )
