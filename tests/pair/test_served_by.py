"""`x-served-by`: every call of every service names its server in its metadata, however its handler is written and ends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from greeter.client.api import GreeterClient
from greeter.client.channel import Retry
from greeter.discovery.calls import served_by
from greeter.server import Service
from greeter.server.app import App, build
from greeter.settings import Server, Settings
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from .processes import DEADLINE

OWN = (("own", "x"),)
OK, ABORTED, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL


async def answers(request: bytes, context: Any) -> bytes:
    return b"x"


async def aborts(request: bytes, context: Any) -> bytes:
    await context.abort(ABORTED, "not now")
    return b""


async def raises(request: bytes, context: Any) -> bytes:
    raise RuntimeError("a mistake")


async def sends_its_own(request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata(OWN)
    return b"x"


def blocks(request: bytes, context: Any) -> bytes:
    return b"x"


def blocks_and_sends_its_own(request: bytes, context: Any) -> bytes:
    context.send_initial_metadata(OWN)
    return b"x"


def blocks_and_aborts(request: bytes, context: Any) -> bytes:
    context.abort(ABORTED, "not now")
    return b""


UNARY = {
    answers: OK,
    aborts: ABORTED,
    raises: INTERNAL,
    sends_its_own: OK,
    blocks: OK,
    blocks_and_sends_its_own: OK,
    blocks_and_aborts: ABORTED,
}


async def yields(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"x"
    yield b"y"


async def yields_nothing(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for answer in list[bytes]():
        yield answer


async def aborts_first(request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.abort(ABORTED, "not now")
    yield b""


async def aborts_later(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"x"
    await context.abort(ABORTED, "no more")


async def raises_first(request: bytes, context: Any) -> AsyncIterator[bytes]:
    raise RuntimeError("a mistake")
    yield b""


async def writes(request: bytes, context: Any) -> None:
    await context.write(b"x")
    await context.write(b"y")


async def streams_its_own(request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.send_initial_metadata(OWN)
    yield b"x"


def blocks_between(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"x"
    yield b"y"


STREAMS = {
    yields: OK,
    yields_nothing: OK,
    aborts_first: ABORTED,
    aborts_later: ABORTED,
    raises_first: INTERNAL,
    writes: OK,
    streams_its_own: OK,
    blocks_between: OK,
}


async def collects(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([request async for request in requests])


async def echoes(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def hangs(request: bytes, context: Any) -> bytes:
    HANGING.set()
    try:
        await asyncio.sleep(3600)
    finally:
        LEFT.set()
    return b""


async def streams_on(request: bytes, context: Any) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)
    finally:
        LEFT.set()


HANGING, LEFT = asyncio.Event(), asyncio.Event()


def register(servicer: object, server: Any) -> None:
    handlers: dict[str, Any] = {each.__name__: grpc.unary_unary_rpc_method_handler(each) for each in (*UNARY, hangs)}
    handlers |= {each.__name__: grpc.unary_stream_rpc_method_handler(each) for each in (*STREAMS, streams_on)}
    handlers["collects"] = grpc.stream_unary_rpc_method_handler(collects)
    handlers["echoes"] = grpc.stream_stream_rpc_method_handler(echoes)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))


@contextlib.asynccontextmanager
async def running(settings: Settings, *services: Service) -> AsyncIterator[App]:
    """A server in this process."""
    app = await build(settings, services)
    await app.start()
    try:
        yield app
    finally:
        await app.server.stop(0)
        await app.close()


@pytest.fixture
async def addresses() -> AsyncIterator[list[str]]:
    """Of the server, and of its port for health alone."""
    settings = Settings(server=Server(host="127.0.0.1", port=0, health_port=0, name="a"))
    async with running(settings, Service("test.Service", register, None)) as app:
        yield [f"127.0.0.1:{app.port}", f"127.0.0.1:{app.health_port}"]


@pytest.fixture
async def channel(addresses: list[str]) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(addresses[0]) as opened:
        yield opened


async def metadata(call: Any) -> dict[str, str]:
    """Of a call that ends, all of it."""
    return dict((*await call.initial_metadata(), *(await call.trailing_metadata() or ())))


async def first_metadata(call: Any) -> dict[str, str]:
    """What comes before the first answer."""
    return dict(await call.initial_metadata())


@pytest.mark.parametrize("handler", UNARY, ids=lambda handler: handler.__name__)
async def test_a_unary_call_names_its_server(channel: Any, handler: Any) -> None:
    """Whatever becomes of it."""
    call: Any = channel.unary_unary(f"/test.Service/{handler.__name__}")(b"", timeout=DEADLINE)
    found = await metadata(call)
    assert (found["x-served-by"], found.get("own")) == ("a", "x" if "its_own" in handler.__name__ else None)
    assert await call.code() is UNARY[handler]


@pytest.mark.parametrize("handler", STREAMS, ids=lambda handler: handler.__name__)
async def test_a_stream_of_answers_names_its_server(channel: Any, handler: Any) -> None:
    """Whatever becomes of it."""
    call: Any = channel.unary_stream(f"/test.Service/{handler.__name__}")(b"", timeout=DEADLINE)
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    found = await metadata(call)
    assert (found["x-served-by"], found.get("own")) == ("a", "x" if "its_own" in handler.__name__ else None)
    assert await call.code() is STREAMS[handler]


async def test_a_stream_names_its_server_before_its_first_answer(channel: Any) -> None:
    """Who follows a stream without end cannot wait for its trailing metadata."""
    call: Any = channel.unary_stream("/test.Service/streams_on")(b"", timeout=DEADLINE)
    assert (await first_metadata(call))["x-served-by"] == "a"
    call.cancel()


async def test_streams_of_requests_name_their_server(channel: Any) -> None:
    """With one answer and with many."""

    async def requests() -> AsyncIterator[bytes]:
        yield b"x"
        yield b"y"

    collected: Any = channel.stream_unary("/test.Service/collects")(requests(), timeout=DEADLINE)
    assert ((await metadata(collected))["x-served-by"], await collected) == ("a", b"xy")
    echoed: Any = channel.stream_stream("/test.Service/echoes")(requests(), timeout=DEADLINE)
    assert ((await first_metadata(echoed))["x-served-by"], [answer async for answer in echoed]) == ("a", [b"x", b"y"])


async def test_health_reflection_and_channelz_name_their_server(channel: Any, addresses: list[str]) -> None:
    """So whoever knows nothing of the service can ask who it is; on the port for health alone, too."""
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(addresses[1]) as plain:
        calls = [
            health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE),
            health_pb2_grpc.HealthStub(plain).Check(request, timeout=DEADLINE),
            channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE),
        ]
        streams = [
            health_pb2_grpc.HealthStub(channel).Watch(request, timeout=DEADLINE),
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([question]), timeout=DEADLINE),
        ]
        assert [(await metadata(call))["x-served-by"] for call in calls] == ["a"] * 3
        assert [(await first_metadata(call))["x-served-by"] for call in streams] == ["a"] * 2
        for stream in streams:
            stream.cancel()


async def test_a_caller_that_leaves_is_no_error(channel: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged of it, neither from a call nor from a stream."""
    HANGING.clear()
    call: Any = channel.unary_unary("/test.Service/hangs")(b"", timeout=DEADLINE)
    await asyncio.wait_for(HANGING.wait(), DEADLINE)
    await _left(call)
    stream: Any = channel.unary_stream("/test.Service/streams_on")(b"", timeout=DEADLINE)
    await stream.read()
    await _left(stream)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def _left(call: Any) -> None:
    LEFT.clear()
    call.cancel()
    await asyncio.wait_for(LEFT.wait(), DEADLINE)


class FailsTwice(greeter_pb2_grpc.GreeterServiceServicer):
    def __init__(self) -> None:
        self.attempts = 0

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.attempts += 1
        if self.attempts < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return greeter_pb2.GreetResponse(message="here")


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_a_unary_call_that_fails_can_still_be_retried(scheme: str) -> None:
    """gRPC makes no call again whose initial metadata has arrived, so the name must not arrive before the answer."""
    servicer = FailsTwice()
    service = Service("greeter.v1.GreeterService", greeter_pb2_grpc.add_GreeterServiceServicer_to_server, servicer)
    retry = Retry(initial_backoff=0.01, max_backoff=0.02)
    async with (
        running(Settings(server=Server(host="127.0.0.1", port=0, name="a")), service) as app,
        GreeterClient(f"{scheme}127.0.0.1:{app.port}", retry=retry, timeout=DEADLINE) as client,
    ):
        names: list[str] = []
        served_by.names.set(names)
        assert (await client.greet("x")).message == "here"
        assert names == ["a"]
    assert servicer.attempts == 3


@pytest.mark.parametrize(("name", "sent"), [("Zoë", "Zo?"), ("a b", "a b"), ("", "")])
async def test_a_name_that_metadata_cannot_hold_is_sent_as_far_as_it_can(name: str, sent: str) -> None:
    """HTTP/2 headers are ASCII; the call does not fail for it. An empty name is not sent."""
    settings = Settings(server=Server(host="127.0.0.1", port=0, name=name))
    async with running(settings) as app, grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert (await metadata(call)).get("x-served-by", "") == sent
