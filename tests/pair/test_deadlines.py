"""A chain of real servers: what is called while serving a call ends when that call's caller does not wait any more."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from greeter.client.api import GreeterClient
from greeter.discovery.calls.handler import Calls
from greeter.discovery.calls.serving import bounded, remaining
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from .calls import served
from .processes import DEADLINE

LONG = 1000.0


class Back(greeter_pb2_grpc.GreeterServiceServicer):
    """Hangs; says how long its caller was going to wait, and when it went."""

    def __init__(self) -> None:
        self.time_remaining: asyncio.Queue[float] = asyncio.Queue()
        self.left = asyncio.Event()

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.time_remaining.put_nowait(context.time_remaining())
        try:
            await asyncio.sleep(LONG)
        finally:
            self.left.set()
        return greeter_pb2.GreetResponse()

    async def WatchGreetings(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.time_remaining.put_nowait(context.time_remaining())
        try:
            while True:
                yield greeter_pb2.WatchGreetingsResponse()
                await asyncio.sleep(0.01)
        finally:
            self.left.set()


class Front(greeter_pb2_grpc.GreeterServiceServicer):
    """Answers with what the back answers, as somebody's business code would: nothing about deadlines in it."""

    def __init__(self, back: GreeterClient) -> None:
        self._back = back

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        [answer] = await asyncio.gather(self._back.greet("x"))  # in a task of its own, too
        return answer

    async def WatchGreetings(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for greeting in self._back.watch_greetings("x"):
            yield greeting


def registered(servicer: Any) -> Any:
    """Adds it to a server as server/app.py does."""
    return lambda server: greeter_pb2_grpc.add_GreeterServiceServicer_to_server(servicer, Calls().on(server))


@pytest.fixture
async def chain() -> AsyncIterator[tuple[Back, Any]]:
    """The back, and a stub of the front whose calls reach it."""
    back = Back()
    async with (
        served(registered(back)) as address,
        GreeterClient(f"static:///{address}", timeout=LONG, stream_timeout=LONG) as greeter,
        served(registered(Front(greeter))) as front,
        grpc.aio.insecure_channel(front) as channel,
    ):
        yield back, greeter_pb2_grpc.GreeterServiceStub(channel)


def called(stub: Any, method: str, timeout: float) -> Any:
    request = greeter_pb2.GreetRequest() if method == "Greet" else greeter_pb2.WatchGreetingsRequest()
    return getattr(stub, method)(request, timeout=timeout)


@pytest.mark.parametrize("method", ["Greet", "WatchGreetings"])
async def test_a_callers_deadline_bounds_what_is_called_for_it(chain: tuple[Back, Any], method: str) -> None:
    """Though the client's own is far longer; in a stream, and in tasks of the handler's, too."""
    back, stub = chain
    call = called(stub, method, DEADLINE)
    # On the wire gRPC rounds a timeout up to about three digits.
    assert await asyncio.wait_for(back.time_remaining.get(), DEADLINE) <= DEADLINE * 1.01
    call.cancel()


@pytest.mark.parametrize("method", ["Greet", "WatchGreetings"])
async def test_a_caller_that_leaves_ends_what_is_called_for_it(chain: tuple[Back, Any], method: str) -> None:
    """The back is told, though neither its deadline nor the front's is near."""
    back, stub = chain
    call = called(stub, method, LONG)
    await asyncio.wait_for(back.time_remaining.get(), DEADLINE)
    call.cancel()
    await asyncio.wait_for(back.left.wait(), DEADLINE)


async def test_outside_of_calls_the_clients_own_counts(chain: tuple[Back, Any]) -> None:
    """A client of its own has nobody's deadline to keep."""
    assert remaining() is None
    assert bounded(7.0) == 7.0


async def test_a_caller_without_a_deadline_bounds_nothing(chain: tuple[Back, Any]) -> None:
    """Then the client's own counts."""
    back, stub = chain
    call = stub.Greet(greeter_pb2.GreetRequest())
    assert await asyncio.wait_for(back.time_remaining.get(), DEADLINE) > DEADLINE
    call.cancel()


async def test_a_wall_clock_that_is_set_moves_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour forwards, while the call is served; gRPC's own context would say that no time remains."""
    left: list[float | None] = []

    class Servicer(greeter_pb2_grpc.GreeterServiceServicer):
        async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 3600.0)
            left.extend((context.time_remaining(), remaining()))
            return greeter_pb2.GreetResponse()

    async with served(registered(Servicer())) as address, grpc.aio.insecure_channel(address) as channel:
        await called(greeter_pb2_grpc.GreeterServiceStub(channel), "Greet", DEADLINE)
    assert all(seconds is not None and 0.0 < seconds <= DEADLINE * 1.01 for seconds in left)
    assert len(left) == 2
