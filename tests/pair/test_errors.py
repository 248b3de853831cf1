"""What a caller sees, a log says and a metric counts of handlers that fail, and of calls that are refused."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace

from greeter.discovery.calls.authorization import Authorization
from greeter.discovery.calls.concurrency_limit import ConcurrencyLimit
from greeter.discovery.calls.handler import Calls
from greeter.v1 import greeter_pb2

from .calls import served
from .measured import Measured
from .processes import DEADLINE

SERVICE = "test.Service"
SECRET = "could not connect: postgres://orders:s3cr3t@10.0.0.7/db"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)


def fails(request: bytes) -> None:
    if request == b"fail":
        raise RuntimeError(SECRET)


async def unary(request: bytes, context: Any) -> bytes:
    fails(request)
    return request


def unary_thread(request: bytes, context: Any) -> bytes:
    fails(request)
    return request


async def responses(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    fails(request)
    yield request


async def responses_written(request: bytes, context: Any) -> None:
    await context.write(b"first")
    fails(request)
    await context.write(request)


def responses_thread(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"first"
    fails(request)
    yield request


async def requests(received: AsyncIterator[bytes], context: Any) -> bytes:
    async for request in received:
        fails(request)
    return b"all"


async def requests_read(_: object, context: Any) -> bytes:
    while (request := await context.read()) is not grpc.aio.EOF:
        fails(request)
    return b"all"


def requests_thread(received: Iterator[bytes], context: Any) -> bytes:
    for request in received:
        fails(request)
    return b"all"


async def both(received: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in received:
        fails(request)
        yield request


async def both_written(_: object, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        fails(request)
        await context.write(request)


def both_thread(received: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for request in received:
        fails(request)
        yield request


KINDS = {
    "unary_unary": (unary, unary_thread),
    "unary_stream": (responses, responses_written, responses_thread),
    "stream_unary": (requests, requests_read, requests_thread),
    "stream_stream": (both, both_written, both_thread),
}
HANDLERS = [(kind, handler) for kind, handlers in KINDS.items() for handler in handlers]
EACH = pytest.mark.parametrize(("kind", "handler"), HANDLERS, ids=[handler.__name__ for _, handler in HANDLERS])


@pytest.fixture(params=[False, True], ids=["telemetry off", "telemetry on"])
def measured(request: pytest.FixtureRequest) -> Measured | None:
    return Measured() if request.param else None


class Log(logging.Handler):
    """Warnings and errors, each with the trace that it was logged in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[tuple[logging.LogRecord, int]] = []
        self.written = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "PollerCompletionQueue" in record.getMessage():
            return  # of several event loops in one process, as tests have them, gRPC wakes the wrong one (grpc#25364)
        self.records.append((record, trace.get_current_span().get_span_context().trace_id))
        self.written.set()

    @property
    def levels(self) -> list[int]:
        return [record.levelno for record, _ in self.records]


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@contextlib.asynccontextmanager
async def server(measured: Measured | None, handlers: dict[str, Any], **parts: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with these handlers in the wrapper."""
    calls = Calls(name="a", telemetry=None if measured is None else measured.telemetry, **parts)
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    async with (
        served(lambda server: calls.on(server).add_generic_rpc_handlers((generic,))) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


async def ended(channel: grpc.aio.Channel, kind: str, method: str, request: bytes, **more: Any) -> tuple[list[bytes], Any]:
    """The responses of a call, and the call."""
    sent: Any = _one(request) if kind.startswith("stream") else request
    call: Any = getattr(channel, kind)(f"/{SERVICE}/{method}")(sent, **{"timeout": DEADLINE, **more})
    found = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        if kind.endswith("stream"):
            async for response in call:
                found.append(response)
        else:
            found.append(await call)
    await call.code()
    return found, call


async def _one(request: bytes) -> AsyncIterator[bytes]:
    yield request


@EACH
async def test_what_a_handler_raises_is_logged_once_and_never_sent(
    kind: str, handler: Any, measured: Measured | None, log: Log
) -> None:
    """With the method, the traceback, and the trace that the call belongs to."""
    handlers = {"Fail": getattr(grpc, f"{kind}_rpc_method_handler")(handler)}
    async with server(measured, handlers) as channel:
        found, call = await ended(channel, kind, "Fail", b"fail", metadata=TRACED)
    assert found == ([b"first"] if kind == "unary_stream" else [])
    assert (await call.code(), await call.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "s3cr3t" not in f"{await call.trailing_metadata()}{await call.debug_error_string()}"
    [(record, traced)] = log.records
    assert traced == (0 if measured is None else int(TRACE, 16))
    assert f"{SERVICE}/Fail" in record.getMessage()
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


@EACH
async def test_every_kind_and_style_works_and_is_measured(kind: str, handler: Any, measured: Measured | None) -> None:
    """Whether telemetry is on or off."""
    handlers = {handler.__name__: getattr(grpc, f"{kind}_rpc_method_handler")(handler)}
    async with server(measured, handlers) as channel:
        found, call = await ended(channel, kind, handler.__name__, b"x")
    wanted = {"unary_unary": [b"x"], "unary_stream": [b"first", b"x"], "stream_unary": [b"all"], "stream_stream": [b"x"]}
    assert (found, await call.code()) == (wanted[kind], grpc.StatusCode.OK)
    if measured is not None:
        assert f"{SERVICE}/{handler.__name__}" in {span.name for span in measured.spans.get_finished_spans()}


async def test_an_abort_passes_with_all_that_it_says(measured: Measured | None, log: Log) -> None:
    """It is an answer; no line is logged."""

    async def aborts(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order", (("own", "x"), ("own-bin", b"\x00\xff")))
        return b""

    async with server(measured, {"Abort": grpc.unary_unary_rpc_method_handler(aborts)}) as channel:
        _, call = await ended(channel, "unary_unary", "Abort", b"")
    assert (await call.code(), await call.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")
    assert set(await call.trailing_metadata()) >= {("own", "x"), ("own-bin", b"\x00\xff")}
    assert not log.records


@pytest.mark.parametrize("leaves", [True, False], ids=["the caller leaves", "the deadline passes"])
async def test_cancellation_and_deadline_reach_the_handler(leaves: bool, measured: Measured | None, log: Log) -> None:
    """As grpc.aio's own CancelledError; no line is logged, and nothing stays counted."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def hangs(request: bytes, context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        return b""

    limit = ConcurrencyLimit(1)
    async with server(measured, {"Hang": grpc.unary_unary_rpc_method_handler(hangs)}, limit=limit) as channel:
        method: Any = channel.unary_unary(f"/{SERVICE}/Hang")
        call = method(b"", timeout=DEADLINE if leaves else 0.2)
        await begun.wait()
        if leaves:
            call.cancel()
        async with asyncio.timeout(DEADLINE):
            await left.wait()
            await limit.idle(DEADLINE)
        assert await call.code() is (grpc.StatusCode.CANCELLED if leaves else grpc.StatusCode.DEADLINE_EXCEEDED)
    assert limit.enter() == ""
    assert not log.records


async def test_garbage_and_a_wrong_type_of_response_are_internal_errors(measured: Measured | None, log: Log) -> None:
    """What the parser says is for the log at most; garbage is the caller's mistake, so it has no traceback."""

    async def wrong(request: Any, context: Any) -> Any:
        return None

    handler = grpc.unary_unary_rpc_method_handler(
        wrong, greeter_pb2.GreetRequest.FromString, greeter_pb2.GreetResponse.SerializeToString
    )
    async with server(measured, {"Wrong": handler}) as channel:
        _, garbage = await ended(channel, "unary_unary", "Wrong", b"\xff\xff\xff")
        assert logging.ERROR not in log.levels
        assert await garbage.code() is grpc.StatusCode.INTERNAL
        assert "Error parsing message" not in await garbage.details()
        _, call = await ended(channel, "unary_unary", "Wrong", b"")
    assert (await call.code(), await call.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert log.levels.count(logging.ERROR) == 1


async def test_a_call_is_refused_before_it_counts_and_before_its_message_is_read(measured: Measured | None) -> None:
    """First by authorization, then by the limit. The caller here never sends its message."""
    full = ConcurrencyLimit(0)
    for parts, code in (
        ({"authorization": Authorization(["nobody"]), "limit": full}, grpc.StatusCode.PERMISSION_DENIED),
        ({"limit": full}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        async with server(measured, {"Unary": grpc.unary_unary_rpc_method_handler(unary)}, **parts) as channel:
            call: Any = channel.stream_unary(f"/{SERVICE}/Unary")(timeout=DEADLINE)
            assert await call.code() is code


async def test_refused_calls_are_counted_each_and_logged_once_a_second(log: Log) -> None:
    """However many they are."""
    measured = Measured()
    async with server(measured, {"Unary": grpc.unary_unary_rpc_method_handler(unary)}, limit=ConcurrencyLimit(0)) as channel:
        await asyncio.gather(*(ended(channel, "unary_unary", "Unary", b"") for _ in range(50)))
        [(attributes, count)] = measured.points("calls.rejected")
        assert (attributes["rpc.method"], attributes["rpc.response.status_code"], count) == (
            f"{SERVICE}/Unary",
            "RESOURCE_EXHAUSTED",
            50,
        )
        async with asyncio.timeout(DEADLINE):
            await log.written.wait()
    [(record, _)] = log.records
    assert "50" in record.getMessage()
