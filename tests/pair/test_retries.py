"""Retries of the typed client: only what the contract allows to repeat, alike on every kind of target, within deadline and budget."""

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter.client.api import GreeterClient
from greeter.client.channel import Retry, ServiceClient
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from lab.demo.balancer import Balancer

from .calls import Load, served
from .processes import DEADLINE, servers

TARGETS = ["static:///{}", "ipv4:{}", "dns:///{}", "passthrough:///{}", "{}"]
"""On discovery's targets gRPC is configured by xDS, on its own by a service config."""

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
QUICK = functools.partial(Retry, initial_backoff=0.001, max_backoff=0.002)


class Scripted(greeter_pb2_grpc.GreeterServiceServicer):
    """Each attempt ends with the next status, a stream after so many answers. trailing: sent with it."""

    def __init__(self, statuses: Iterator[grpc.StatusCode], answers: int = 0, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        self.remaining: list[float] = []
        """The seconds that each attempt had."""
        self._statuses = statuses
        self._answers = answers
        self._trailing = trailing

    @property
    def attempts(self) -> int:
        return len(self.remaining)

    async def _end(self, context: Any) -> None:
        if (status := next(self._statuses)) is not OK:
            await context.abort(status, "not today", self._trailing)

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.remaining.append(context.time_remaining())
        await self._end(context)
        return greeter_pb2.GreetResponse(message="here")

    async def WatchGreetings(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.remaining.append(context.time_remaining())
        for _ in range(self._answers):
            yield greeter_pb2.WatchGreetingsResponse(message="here")
        await self._end(context)
        yield greeter_pb2.WatchGreetingsResponse(message="last")

    def register(self, server: grpc.aio.Server) -> None:
        greeter_pb2_grpc.add_GreeterServiceServicer_to_server(self, server)


def always(status: grpc.StatusCode) -> Iterator[grpc.StatusCode]:
    return itertools.repeat(status)


def then(*statuses: grpc.StatusCode) -> Iterator[grpc.StatusCode]:
    """These, and OK from then on."""
    return itertools.chain(statuses, always(OK))


@contextlib.asynccontextmanager
async def calling(servicer: Scripted, target: str = "ipv4:{}", retry: Retry | None = None) -> AsyncIterator[GreeterClient]:
    """A client of a server that behaves so."""
    async with (
        served(servicer.register) as address,
        GreeterClient(target.format(address), retry=retry or QUICK(), timeout=DEADLINE, stream_timeout=DEADLINE) as client,
    ):
        yield client


async def ended(call: Any) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


async def watched(client: GreeterClient) -> list[str]:
    return [answer.message async for answer in client.watch_greetings("x", interval=0.001)]


@pytest.mark.parametrize("target", TARGETS)
async def test_an_idempotent_call_is_retried_three_attempts_in_all(target: str) -> None:
    """It succeeds at the third, and fails after it."""
    servicer = Scripted(then(UNAVAILABLE, UNAVAILABLE, OK, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE))
    async with calling(servicer, target) as client:
        assert (await client.greet("x")).message == "here"
        assert servicer.attempts == 3
        assert await ended(client.greet("x")) is UNAVAILABLE
        assert servicer.attempts == 6


class HealthClient(ServiceClient):
    """A typed client of a service whose proto has no idempotency_level."""

    async def check(self) -> None:
        await self.unary(health_pb2_grpc.HealthStub(self.channel).Check, health_pb2.HealthCheckRequest(), DEADLINE)

    async def watch(self) -> None:
        async for _ in self.stream(health_pb2_grpc.HealthStub(self.channel).Watch, health_pb2.HealthCheckRequest(), DEADLINE):
            pass


@pytest.mark.parametrize("method", ["check", "watch"])
@pytest.mark.parametrize("target", TARGETS)
async def test_a_method_that_the_contract_does_not_call_idempotent_has_one_attempt(target: str, method: str) -> None:
    """It may have done its work before it failed."""
    attempts = []

    async def fail(request: bytes, context: Any) -> bytes:
        attempts.append(request)
        await context.abort(UNAVAILABLE, "not today")
        return b""

    async def health(request: bytes, context: Any) -> AsyncIterator[bytes]:
        if ("test", "1") in context.invocation_metadata():
            attempts.append(request)
            await context.abort(UNAVAILABLE, "not today")
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
        await asyncio.sleep(DEADLINE)  # what the balancer watches

    handlers: dict[str, Any] = {
        "Check": grpc.unary_unary_rpc_method_handler(fail),
        "Watch": grpc.unary_stream_rpc_method_handler(health),
    }
    generic = grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)
    async with (
        served(lambda server: server.add_generic_rpc_handlers((generic,))) as address,
        HealthClient(target.format(address), retry=QUICK(), metadata=[("test", "1")]) as client,
    ):
        assert await ended(getattr(client, method)()) is UNAVAILABLE
    assert len(attempts) == 1


@pytest.mark.parametrize("target", TARGETS)
async def test_a_stream_is_retried_until_its_first_answer(target: str) -> None:
    """After it, only the caller knows where to go on."""
    servicer = Scripted(then(UNAVAILABLE, UNAVAILABLE))
    async with calling(servicer, target) as client:
        assert await watched(client) == ["last"]
        assert servicer.attempts == 3
    servicer = Scripted(always(UNAVAILABLE), answers=1)
    async with calling(servicer, target) as client:
        assert await ended(watched(client)) is UNAVAILABLE
        assert servicer.attempts == 1


@pytest.mark.parametrize(
    ("status", "retry"), [(UNAVAILABLE, QUICK(attempts=1)), (grpc.StatusCode.INTERNAL, None), (grpc.StatusCode.NOT_FOUND, None)]
)
async def test_what_is_not_in_the_policy_has_one_attempt(status: grpc.StatusCode, retry: Retry | None) -> None:
    """Other statuses, and whatever there is if retries are off."""
    servicer = Scripted(always(status))
    async with calling(servicer, retry=retry) as client:
        assert await ended(client.greet("x")) is status
    assert servicer.attempts == 1


@pytest.mark.parametrize("target", TARGETS)
async def test_where_four_in_ten_attempts_fail_the_budget_ends_the_retries(target: str) -> None:
    """Retries of an overload would add to it (gRFC A6): the defaults allow at most a tenth more attempts than calls."""
    chance = random.Random(11)
    servicer = Scripted(UNAVAILABLE if chance.random() < 0.4 else OK for _ in itertools.count())
    async with calling(servicer, target) as client:
        for _ in range(1200):
            await ended(client.greet("x"))
    assert 1200 < servicer.attempts <= 1.1 * 1200


async def test_the_budget_is_one_for_all_clients_of_a_target_and_counts_streams() -> None:
    """Half of it gone by streams of one client, nothing is retried by another; successes bring it back."""
    failing = itertools.chain(itertools.repeat(UNAVAILABLE, 6), [OK], always(UNAVAILABLE))
    servicer, retry = Scripted(failing), QUICK(max_tokens=10, token_ratio=3.0)
    async with served(servicer.register) as address:
        target = f"ipv4:{address}"
        async with GreeterClient(target, retry=retry) as one, GreeterClient(target, retry=retry) as other:
            assert await ended(watched(one)) is UNAVAILABLE  # 10, 9, 8 and then 7
            assert await ended(watched(one)) is UNAVAILABLE  # 6, 5
            assert servicer.attempts == 5
            assert await ended(other.greet("x")) is UNAVAILABLE  # 4
            assert servicer.attempts == 6
            assert await ended(other.greet("x")) is OK  # 7
            assert await ended(one.greet("x")) is UNAVAILABLE  # 6, 5
            assert servicer.attempts == 9


async def test_backoff_doubles_up_to_its_maximum_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that failed together must not come back together."""
    bounds = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    servicer = Scripted(always(UNAVAILABLE))
    async with calling(servicer, retry=Retry(attempts=5)) as client:
        await ended(client.greet("x"))
    assert bounds == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4), (0.0, 0.8)]


async def test_all_attempts_have_one_deadline() -> None:
    """Each has what the earlier ones have left; gRPC rounds it to a hundredth."""
    servicer = Scripted(always(UNAVAILABLE), trailing=(("grpc-retry-pushback-ms", "500"),))
    async with calling(servicer) as client:
        assert await ended(client.greet("x", timeout=9.0)) is UNAVAILABLE
    first, second, third = servicer.remaining
    assert second < first - 0.4
    assert third < second - 0.4


@pytest.mark.parametrize("pushback", ["-1", "soon", "9" * 5000, "3600000"])
async def test_a_server_may_say_that_nothing_shall_be_retried(pushback: str) -> None:
    """Or only so late that the deadline is over: then the call fails at once, with its own status (gRFC A6)."""
    servicer = Scripted(always(UNAVAILABLE), trailing=(("grpc-retry-pushback-ms", pushback),))
    async with calling(servicer) as client:
        assert await ended(client.greet("x")) is UNAVAILABLE
    assert servicer.attempts == 1


async def test_a_server_may_say_when_to_retry() -> None:
    """Instead of the client's backoff, which would outlive the deadline here."""
    servicer = Scripted(then(UNAVAILABLE), trailing=(("grpc-retry-pushback-ms", "0"),))
    async with calling(servicer, retry=Retry(initial_backoff=1e9, max_backoff=1e9)) as client:
        assert await ended(client.greet("x")) is OK
    assert servicer.attempts == 2


async def test_a_call_that_waits_for_its_next_attempt_can_be_canceled() -> None:
    """Nothing is sent after that."""
    failed = asyncio.Semaphore(0)

    def fail() -> Iterator[grpc.StatusCode]:
        while True:
            failed.release()
            yield UNAVAILABLE

    servicer = Scripted(fail(), trailing=(("grpc-retry-pushback-ms", "10000"),))
    async with calling(servicer) as client:
        call = asyncio.create_task(client.greet("x"))
        await asyncio.wait_for(failed.acquire(), DEADLINE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert servicer.attempts == 1


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_no_call_fails_while_a_server_is_killed(scheme: str) -> None:
    """Its calls are made again on another server."""
    with servers("a", "b", "c") as running:
        target = scheme + ",".join(address for _, address in running.values())
        async with GreeterClient(target, timeout=DEADLINE) as client, Load(client) as load:
            await load.until(lambda results: len({result.server for result in results}) == 3)
            running["a"][0].close()
            after = len(load.results)
            await load.until(lambda results: len(results) >= after + 100)
    assert {result.code for result in load.results} == {"OK"}


async def test_behind_one_address_no_call_fails_while_a_server_is_killed() -> None:
    """Also if the address leads to the killed one for a while."""
    with servers("a", "b", "c") as running:
        backends = [(host, int(port)) for _, address in running.values() for host, port in [address.split(":")]]
        balancer = Balancer()
        balancer.set(backends)
        await balancer.start()
        async with GreeterClient(f"passthrough:///127.0.0.1:{balancer.port}", timeout=DEADLINE) as client, Load(client) as load:
            await load.until(lambda results: len(results) > 20)
            used = load.results[-1].server
            running[used][0].close()
            await load.until(lambda results: any(result.server not in ("", used) for result in results))
        await balancer.close()
    assert {result.code for result in load.results} == {"OK"}
