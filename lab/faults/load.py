"""More calls than a server takes, and connections that are no calls at all."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .catalogue import Row, fault
from .harness import Trial

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What makes a connection one of HTTP/2: the preface and empty SETTINGS (RFC 9113)."""


@fault("server at its limit of calls", quick=True)
async def shedding(trial: Trial) -> Row:
    """What is above the limit is refused with RESOURCE_EXHAUSTED and not made again; health stays SERVING and prompt."""
    [server] = await trial.servers(1, SERVER__MAX_CONCURRENT_RPCS="20")
    trial.manual(server.authority)
    async with grpc.aio.insecure_channel(server.authority) as channel:
        stub: Any = greeter_pb2_grpc.GreeterServiceStub(channel)
        held = [stub.WatchGreetings(greeter_pb2.WatchGreetingsRequest(), timeout=60) for _ in range(20)]
        await asyncio.gather(*(stream.read() for stream in held))
        trial.mark()
        await trial.call(rate=500.0)
        took: list[float] = []
        check = health_pb2_grpc.HealthStub(channel).Check
        for _ in range(30):
            began = time.monotonic()
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
        refused = {result.code for result in trial.since()}
        count = len(trial.failed())
        for stream in held:
            stream.cancel()
        mended = time.monotonic()
        await trial.served_by("a")
        trial.recovered_since(mended)
    took.sort()
    note = f"{count} refused in 3 s while 20 streams hold all places; health answered in {took[15] * 1000:.0f} ms (median), {took[-1] * 1000:.0f} ms (longest)"
    return trial.row(refused == {"RESOURCE_EXHAUSTED"} and took[-1] < 1.0, note)


class _Busy(greeter_pb2_grpc.GreeterServiceServicer):
    """Serves so many calls at a time, each for 50 ms; more are UNAVAILABLE, as an overloaded proxy answers."""

    LIMIT = 5

    def __init__(self) -> None:
        self.running = self.seen = self.served = 0

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.seen += 1
        if self.running >= self.LIMIT:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        self.running += 1
        try:
            await asyncio.sleep(0.05)
        finally:
            self.running -= 1
        self.served += 1
        return greeter_pb2.GreetResponse(served_by="busy")

    def WatchGreetings(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


async def _overloaded(trial: Trial, **retry: Any) -> tuple[float, float, float]:
    """Offered, tried and served calls a second, of a client that asks for three times what can be served."""
    busy = _Busy()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(busy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        trial.manual(f"127.0.0.1:{port}")
        trial.mark()
        await trial.call(rate=300.0, retry=retry)
        await asyncio.sleep(4.0)  # until the bucket of tokens has run low
        seen, served, began, calls = busy.seen, busy.served, time.monotonic(), len(trial.results)
        await asyncio.sleep(6.0)
        seconds = time.monotonic() - began
        figures = (len(trial.results) - calls) / seconds, (busy.seen - seen) / seconds, (busy.served - served) / seconds
        trial.look()
        await trial.stop_calling()
        return figures
    finally:
        await server.stop(0)


@fault("three times the load that can be served", quick=True)
async def throttled(trial: Trial) -> Row:
    """The throttle keeps retries from adding to it: hardly more is tried than is offered, and what can be served is."""
    offered, tried, served = await _overloaded(trial)
    return trial.row(
        tried < 1.2 * offered and served > 60, f"a second: {offered:.0f} offered, {tried:.0f} tried, {served:.0f} served"
    )


@fault("three times the load that can be served, no throttle")
async def unthrottled(trial: Trial) -> Row:
    """Every refused call is tried three times."""
    offered, tried, served = await _overloaded(trial, max_tokens=1000, token_ratio=1000.0)
    return trial.row(tried > 1.3 * offered, f"a second: {offered:.0f} offered, {tried:.0f} tried, {served:.0f} served")


@contextlib.contextmanager
def _connections(place: tuple[str, int], count: int, saying: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.append(stack.enter_context(socket.create_connection(place, 5)))
                made[-1].sendall(saying)
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


async def _attacked(trial: Trial, saying: bytes, limit: float, through: tuple[str, ...] = (), **told: str) -> Row:
    [server] = trial.placed("127.0.0.1", told=told)
    server.through = through
    await server.start()
    trial.manual(server.authority)
    await trial.call()
    await trial.served_by("a")
    trial.mark()
    with _connections((server.address, server.port), 200, saying) as connections:
        at_once = len(await asyncio.to_thread(_closed, connections, 0.5))
        later = await asyncio.to_thread(_closed, connections, 10 * limit)
    async with grpc.aio.insecure_channel(server.authority) as channel:
        stub: Any = greeter_pb2_grpc.GreeterServiceStub(channel)
        await stub.Greet(greeter_pb2.GreetRequest(), timeout=10, wait_for_ready=True)
    note = f"of 200 connections {at_once} were closed at once, all {len(later)} after {0.5 + max(later):.1f} s"
    return trial.row(not trial.failed() and len(later) == len(connections) and at_once >= 140, note)


@fault("200 connections that never say a word", quick=True)
async def silent_connections(trial: Trial) -> Row:
    """Above the limit of connections they are closed at once, the others after the handshake's time; no call fails."""
    return await _attacked(trial, b"", 2.0, SERVER__MAX_CONNECTIONS="50", SERVER__HANDSHAKE_TIMEOUT="2s")


@fault("200 connections that never make a call")
async def idle_connections(trial: Trial) -> Row:
    """Above the limit of connections they are closed at once, the others after the idle time; no call fails."""
    return await _attacked(trial, PREFACE, 2.0, SERVER__MAX_CONNECTIONS="50", SERVER__MAX_CONNECTION_IDLE="2s")


@fault("server out of file descriptors")
async def server_without_descriptors(trial: Trial) -> Row:
    """No call fails on the connections there are; when the others go, new ones are taken again."""
    [server] = trial.placed("127.0.0.1", told={"SERVER__MAX_CONNECTIONS": "none", "SERVER__HANDSHAKE_TIMEOUT": "2s"})
    server.through = ("prlimit", "--nofile=60")
    await server.start()
    trial.manual(server.authority)
    await trial.call()
    await trial.served_by("a")
    trial.mark()
    with _connections((server.address, server.port), 200, b"") as connections:
        await asyncio.sleep(3.0)
        open_now = len(connections) - len(await asyncio.to_thread(_closed, connections, 0.5))
    mended = time.monotonic()
    async with grpc.aio.insecure_channel(server.authority) as channel:
        stub: Any = greeter_pb2_grpc.GreeterServiceStub(channel)
        await stub.Greet(greeter_pb2.GreetRequest(), timeout=60, wait_for_ready=True)
    trial.recovered_since(mended)
    return trial.row(
        not trial.failed(), f"{open_now} of 200 connections waited; over counts from their end to a new one that was served"
    )


@fault("oversized messages and metadata", quick=True)
async def oversized(trial: Trial) -> Row:
    """Both are refused with RESOURCE_EXHAUSTED; other calls on the same connection go well."""
    [server] = await trial.servers(1)
    trial.manual(server.authority)
    await trial.call()
    await trial.served_by("a")
    trial.mark()
    codes = []
    async with grpc.aio.insecure_channel(server.authority) as channel:
        stub: Any = greeter_pb2_grpc.GreeterServiceStub(channel)
        for name, metadata in (("x" * 5_000_000, ()), ("x", (("heavy", "x" * 60_000),))):
            try:
                await stub.Greet(greeter_pb2.GreetRequest(name=name), timeout=10, metadata=metadata)
                codes.append("OK")
            except grpc.aio.AioRpcError as error:
                codes.append(error.code().name)
            await stub.Greet(greeter_pb2.GreetRequest(name="x"), timeout=10)
    await asyncio.sleep(1.0)
    return trial.row(
        codes == ["RESOURCE_EXHAUSTED"] * 2 and not trial.failed(), f"5 MB: {codes[0]}; 60 kB of metadata: {codes[1]}"
    )
