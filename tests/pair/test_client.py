"""The typed client: a target and a few arguments, calls with deadlines, and retries that stop when they would do harm."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter import discovery
from greeter.client.api import GreeterClient
from greeter.client.channel import Policy, Retry, ServiceClient
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from .calls import served
from .processes import DEADLINE, servers
from .project import PROJECT


class Failing(greeter_pb2_grpc.GreeterServiceServicer):
    """Counts the attempts that arrive; fails, or hangs, until told otherwise."""

    def __init__(self, behavior: str = "fail") -> None:
        self.attempts = 0
        self.behavior = behavior

    async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
        self.attempts += 1
        if self.behavior == "fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        if self.behavior == "hang":
            await asyncio.sleep(3600)
        return greeter_pb2.GreetResponse(message="here")

    def register(self, server: grpc.aio.Server) -> None:
        greeter_pb2_grpc.add_GreeterServiceServicer_to_server(self, server)


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, str]]:
    servicer = Failing()
    async with served(servicer.register) as address:
        yield servicer, address


def quick(**retry: Any) -> Policy:
    """Retries without a noticeable wait."""
    return Policy(retry=Retry(**{"initial_backoff": 0.01, "max_backoff": 0.02, **retry}))


ONCE = Policy(retry=None)


async def fails(client: GreeterClient) -> grpc.StatusCode:
    """Make a call that must fail; how."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.greet("x", timeout=DEADLINE)
    return error.value.code()


@pytest.mark.parametrize("scheme", ["static:///", "passthrough:///"])
async def test_failed_calls_are_retried_and_the_throttle_stops_that(failing: tuple[Failing, str], scheme: str) -> None:
    """Three attempts a call at first; one when half of the tokens are gone; on every kind of target."""
    servicer, address = failing
    async with GreeterClient(scheme + address, policy=quick(max_tokens=10)) as client:
        attempts = []
        for _ in range(30):
            before = servicer.attempts
            await fails(client)
            attempts.append(servicer.attempts - before)
    assert attempts[0] == 3
    assert attempts[-10:] == [1] * 10


class HealthClient(ServiceClient):
    """A typed client of a service whose proto has no idempotency_level."""

    service = health_pb2.DESCRIPTOR.services_by_name["Health"]

    async def check(self) -> None:
        await self.unary(health_pb2_grpc.HealthStub(self.channel).Check, health_pb2.HealthCheckRequest(), DEADLINE)


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:", "passthrough:///"])
async def test_a_method_that_does_not_say_that_it_may_be_retried_never_is(scheme: str) -> None:
    """It may have done something before it failed."""
    attempts = []

    async def check(request: bytes, context: Any) -> bytes:
        attempts.append(request)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        return b""

    handlers: dict[str, Any] = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    generic = grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)
    config = discovery.Config(health=None)
    async with (
        served(lambda server: server.add_generic_rpc_handlers((generic,))) as address,
        HealthClient(f"{scheme}{address}", policy=replace(quick(), health_check=False), config=config) as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await client.check()
    assert len(attempts) == 1


async def test_successes_give_tokens_back(failing: tuple[Failing, str]) -> None:
    """Retries come back with the servers."""
    servicer, address = failing
    async with GreeterClient(f"static:///{address}", policy=quick(max_tokens=4, token_ratio=1.0)) as client:
        for _ in range(4):
            await fails(client)
        servicer.behavior = "answer"
        for _ in range(4):
            await client.greet("x", timeout=DEADLINE)
        servicer.behavior, servicer.attempts = "fail", 0
        await fails(client)
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


async def test_behind_one_address_a_call_waits_for_the_next_connection() -> None:
    """Longer than its attempts take, for whoever is behind the address may have been killed."""
    async with nobody() as (port, refused):
        client = GreeterClient(f"passthrough:///127.0.0.1:{port}", policy=quick())
        call = asyncio.create_task(client.greet("x", timeout=DEADLINE))
        for _ in range(3):
            await refused.acquire()
        assert not call.done()
    async with served(Failing("answer").register, port), client:
        assert (await call).message == "here"


async def test_without_retries_it_fails_at_once() -> None:
    """As everywhere else."""
    async with nobody() as (port, _), GreeterClient(f"passthrough:///127.0.0.1:{port}", policy=ONCE) as client:
        assert await fails(client) is grpc.StatusCode.UNAVAILABLE


async def test_every_call_has_a_deadline(failing: tuple[Failing, str]) -> None:
    """A server that hangs does not hold its callers."""
    servicer, address = failing
    servicer.behavior = "hang"
    async with GreeterClient(f"static:///{address}", timeout=0.2) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.greet("x")
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_a_server_that_fails_calls_is_taken_out(failing: tuple[Failing, str], scheme: str) -> None:
    """On targets of discovery and on gRPC's own; calls that are not retried show who got them."""
    servicer, address = failing
    outliers = discovery.Outliers(interval=0.2, min_requests=2, ejection=60.0)
    async with (
        served(Failing("answer").register) as good,
        GreeterClient(f"{scheme}{address},{good}", policy=Policy(retry=None, outliers=outliers, health_check=False)) as client,
    ):
        well = 0
        async with asyncio.timeout(DEADLINE):
            while well < 50:  # one after the other; round_robin would give the other server half of them
                try:
                    await client.greet("x", timeout=DEADLINE)
                    well += 1
                except grpc.aio.AioRpcError:
                    well = 0
    assert servicer.attempts


async def test_a_stream_can_be_left_early_and_ends_by_itself() -> None:
    """Both ways."""
    with servers("a") as running:
        async with GreeterClient(f"static:///{running['a'][1]}") as client:
            assert len([greeting async for greeting in client.watch_greetings("x", interval=0.001, count=3)]) == 3
            async for greeting in client.watch_greetings("x", interval=0.001):
                assert greeting.message == "Hello number 1, x!"
                break


async def test_further_channel_arguments_and_interceptors_count(failing: tuple[Failing, str]) -> None:
    """Those of the caller come after the client's own."""
    seen = []

    class Seen(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(details.method)
            return await continuation(details, request)

    servicer, address = failing
    servicer.behavior = "answer"
    options = [("grpc.max_send_message_length", 10)]
    async with GreeterClient(f"static:///{address}", options=options, interceptors=[Seen()], policy=ONCE) as client:
        await client.greet("x")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.greet("x" * 100)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(seen) == 2


async def test_a_target_that_cannot_work_is_refused_before_anything_is_sent() -> None:
    """By the library's own error."""
    with pytest.raises(discovery.TargetError):
        GreeterClient("nowhere:///x")


ALONE = """
import asyncio, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "greeter", "grpc", "google", "typing_extensions"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from greeter.client.api import GreeterClient

async def main():
    async with GreeterClient(sys.argv[1], timeout=20.0) as client:
        print((await client.greet("Ada")).message)

asyncio.run(main())
print([name for name in sys.modules if name.startswith(("greeter.settings", "greeter.server"))])
"""


def test_it_needs_grpc_and_protobuf_alone_and_reads_no_settings(tmp_path: Path) -> None:
    """Another program may have a `.env` and variables of its own, even some that look like this project's."""
    environment = PROJECT.environment({"SERVER__PORT": "many", "CLIENT__TIMEOUT": "0", "NO__SUCH": "x"})
    with servers("a") as running:
        (tmp_path / ".env").write_bytes(b"\xff GREETER__SERVER__PORT=many")
        command = [str(PROJECT.python), "-c", ALONE, f"static:///{running['a'][1]}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("Hello, Ada!\n[]\n", "")
