"""The client: typed calls with deadlines, retries that stop when they would do harm, and a service of its own."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import discovery
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from {{ cookiecutter.package_name }}.client.api import GreeterClient
from {{ cookiecutter.package_name }}.settings import Client, Settings

from .processes import DEADLINE, Process, servers


class Failing(greeter_pb2_grpc.GreeterServiceServicer):
    """Counts the attempts that arrive; fails, or hangs, until told otherwise."""

    def __init__(self) -> None:
        self.attempts = 0
        self.behaviour = "fail"

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.attempts += 1
        if self.behaviour == "fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        if self.behaviour == "hang":
            await asyncio.sleep(3600)
        return greeter_pb2.GreetResponse(served_by="failing")

    def WatchGreetings(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, str]]:
    servicer = Failing()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(0)


def settings(target: str, **client: object) -> Settings:
    return Settings(client=Client.model_validate({"target": target, **client}))


@pytest.mark.parametrize("scheme", ["static:///", "passthrough:///"])
async def test_failed_calls_are_retried_and_the_throttle_stops_that(failing: tuple[Failing, str], scheme: str) -> None:
    """Three attempts a call at first; one when half of the tokens are gone; on every kind of target."""
    servicer, address = failing
    retry = {"initial_backoff": 0.01, "max_backoff": 0.02, "max_tokens": 10}
    async with GreeterClient.connect(settings(scheme + address, retry=retry)) as client:
        attempts = []
        for _ in range(30):
            before = servicer.attempts
            with pytest.raises(grpc.aio.AioRpcError):
                await client.greet("x", timeout=DEADLINE)
            attempts.append(servicer.attempts - before)
    assert attempts[0] == 3
    assert attempts[-10:] == [1] * 10


async def test_successes_give_tokens_back(failing: tuple[Failing, str]) -> None:
    """Retries come back with the servers."""
    servicer, address = failing
    retry = {"initial_backoff": 0.01, "max_backoff": 0.02, "max_tokens": 4, "token_ratio": 1.0}
    async with GreeterClient.connect(settings(f"static:///{address}", retry=retry)) as client:
        for _ in range(4):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.greet("x", timeout=DEADLINE)
        servicer.behaviour = "answer"
        for _ in range(4):
            await client.greet("x", timeout=DEADLINE)
        servicer.behaviour, servicer.attempts = "fail", 0
        with pytest.raises(grpc.aio.AioRpcError):
            await client.greet("x", timeout=DEADLINE)
        assert servicer.attempts == 3


@contextlib.asynccontextmanager
async def nobody() -> AsyncIterator[tuple[int, asyncio.Semaphore]]:
    """A port behind which everybody is gone, and a count of the connections that it has ended; until closed."""
    refused = asyncio.Semaphore(0)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        refused.release()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], refused


RETRY_AT_ONCE = {"initial_backoff": 0.001, "max_backoff": 0.001}


async def test_behind_one_address_a_call_waits_for_the_next_connection() -> None:
    """Longer than its attempts take, for whoever is behind the address may have been killed."""
    async with nobody() as (port, refused):
        client = GreeterClient.connect(settings(f"passthrough:///127.0.0.1:{port}", retry=RETRY_AT_ONCE))
        call = asyncio.create_task(client.greet("x", timeout=DEADLINE))
        for _ in range(3):
            await refused.acquire()
        assert not call.done()
    servicer, server = Failing(), grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer.behaviour = "answer"
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    assert (await call).served_by == "failing"
    await client.close()
    await server.stop(0)


async def test_without_retries_it_fails_at_once() -> None:
    """As everywhere else."""
    async with (
        nobody() as (port, _),
        GreeterClient.connect(settings(f"passthrough:///127.0.0.1:{port}", retry={"enabled": False})) as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.greet("x", timeout=DEADLINE)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_every_call_has_a_deadline(failing: tuple[Failing, str]) -> None:
    """From the settings; a server that hangs does not hold its callers."""
    servicer, address = failing
    servicer.behaviour = "hang"
    async with GreeterClient.connect(settings(f"static:///{address}", timeout=0.2)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.greet("x")
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_a_server_that_fails_calls_is_taken_out(failing: tuple[Failing, str], scheme: str) -> None:
    """On targets of discovery and on gRPC's own; calls that fail for no retry's sake show who got them."""
    servicer, address = failing
    outliers = {"interval": 0.2, "min_requests": 2, "ejection": 60.0}
    with servers("good") as running:
        target = f"{scheme}{address},{running['good'][1]}"
        async with GreeterClient.connect(settings(target, outliers=outliers, retry={"enabled": False})) as client:
            calls = well = 0
            async with asyncio.timeout(DEADLINE):
                while well < 50:  # one after the other; round_robin would give the other server half of them
                    calls += 1
                    try:
                        await client.greet("x", timeout=DEADLINE)
                        well += 1
                    except grpc.aio.AioRpcError:
                        well = 0
    assert servicer.attempts


async def test_a_stream_can_be_left_early_and_ends_by_itself() -> None:
    """Both ways."""
    with servers("a") as running:
        async with GreeterClient.connect(settings(f"static:///{running['a'][1]}")) as client:
            assert [greeting.served_by async for greeting in client.watch("x", interval=0.001, count=3)] == ["a"] * 3
            async for greeting in client.watch("x", interval=0.001):
                assert greeting.served_by == "a"
                break


async def test_a_target_that_cannot_work_is_refused_before_anything_is_sent() -> None:
    """By the library's own error."""
    with pytest.raises(discovery.TargetError):
        GreeterClient.connect(settings("nowhere:///x"))


def test_the_service_is_ready_only_when_a_call_could_go_out_and_ends_cleanly() -> None:
    """Started before any server; then ready, calling, saying who served; SIGTERM ends it with status 0."""
    with servers("a") as running:
        port = running["a"][1].rpartition(":")[2]
        running["a"][0].close()
        client = Process(
            "client", CLIENT__TARGET=f"static:///127.0.0.1:{port}", CLIENT__RATE="50", CLIENT__HEALTH_PORT="0",
            CLIENT__HEALTH_HOST="127.0.0.1", LOG__FORMAT="json",
        )  # fmt: skip
        try:
            health_port = client.wait_for(r"health on port (\d+)")[1]
            with grpc.insecure_channel(f"127.0.0.1:{health_port}") as channel:
                health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
                assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
                with servers("b", port=port):
                    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
                    line = json.loads(client.wait_for(r'.*"served": \{"b": \d+\}.*')[0])
                    assert line["served"]["b"] > 0
                    client.send(signal.SIGTERM)
                    assert client.ended() == 0
            assert not any("Traceback" in line for line in client.lines)
        finally:
            client.close()


def test_each_servers_first_answer_is_a_line_of_the_log_once() -> None:
    """So that logs tell when a new server was found, to the millisecond, and stay short."""
    with servers("first", "second") as running:
        target = "static:///" + ",".join(address for _, address in running.values())
        client = Process("client", CLIENT__TARGET=target, CLIENT__RATE="50", CLIENT__HEALTH_PORT="0", LOG__FORMAT="json")
        try:
            for name in ("first", "second"):
                client.wait_for(f'"first": "{name}"')
            for _ in range(2):  # whole seconds in which both served
                client.wait_for('"served": {"first": [0-9]+, "second": [0-9]+}')
                client.lines.remove(next(line for line in client.lines if '"served"' in line))
            assert len([line for line in client.lines if "first answer from" in line]) == 2
        finally:
            client.close()


def test_a_target_that_cannot_work_ends_the_service_with_a_sentence() -> None:
    """Status 2, no traceback."""
    client = Process("client", CLIENT__TARGET="kubernetes:///Wrong")
    assert client.ended() == 2
    assert client.lines[-1].startswith("settings: CLIENT__TARGET=kubernetes:///Wrong cannot be used: ")
    assert len(client.lines) == 1
