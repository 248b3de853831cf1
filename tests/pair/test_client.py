"""The typed client: a target and a few arguments, calls with deadlines, and retries that stop when they would do harm."""

import asyncio
import contextlib
import functools
import json
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from greeter import discovery
from greeter.client.api import GreeterClient
from greeter.client.channel import InvalidRequestError, Retry, channel_options
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
        if self.behavior == "not found":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody of that name")
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


ONCE = Retry(attempts=1)


async def failure(client: GreeterClient) -> grpc.StatusCode | None:
    """How a call fails; None if it does not."""
    try:
        await client.greet("x", timeout=DEADLINE)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


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
        client = GreeterClient(f"passthrough:///127.0.0.1:{port}")
        call = asyncio.create_task(client.greet("x", timeout=DEADLINE))
        for _ in range(3):
            await refused.acquire()
        assert not call.done()
    async with served(Failing("answer").register, port), client:
        assert (await call).message == "here"


async def test_every_call_has_a_deadline(failing: tuple[Failing, str]) -> None:
    """A server that hangs does not hold its callers."""
    servicer, address = failing
    servicer.behavior = "hang"
    async with GreeterClient(f"static:///{address}", timeout=0.2) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.greet("x")
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def hurried(target: str, outlier_detection: bool) -> list[tuple[str, str]]:
    """The client's service config, but that outlier detection decides every second."""
    config = json.loads(channel_options(target, outlier_detection)["grpc.service_config"])
    for balancing in config["loadBalancingConfig"]:
        for detection in balancing.values():
            detection.update({"interval": "1s"} if detection else {})
    return [("grpc.service_config", json.dumps(config))]


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_outlier_detection_takes_a_server_out_that_fails_calls(failing: tuple[Failing, str], scheme: str) -> None:
    """If it is on; on targets of discovery and on gRPC's own. Calls that are not retried show who got them."""
    servicer, address = failing
    async with served(Failing("answer").register) as good:
        target = f"{scheme}{address},{good}"
        options = hurried(target, True)
        async with GreeterClient(target, retry=ONCE, options=options, outlier_detection=True) as client:
            well = 0
            async with asyncio.timeout(DEADLINE):
                while well < 50:  # one after the other; round_robin would give the other server half of them
                    well = 0 if await failure(client) else well + 1
    assert servicer.attempts >= 50, "gRPC's own number of requests"


@pytest.mark.parametrize("scheme", ["static:///", "ipv4:"])
async def test_two_servers_that_say_not_found_both_keep_their_calls(scheme: str) -> None:
    """That is an answer, but gRPC's outlier detection counts every status other than OK: it is off by default."""
    both = Failing("not found"), Failing("not found")
    async with served(both[0].register) as one, served(both[1].register) as other:
        target = f"{scheme}{one},{other}"
        default = GreeterClient.__init__.__kwdefaults__["outlier_detection"]
        async with GreeterClient(target, options=hurried(target, default), timeout=DEADLINE) as client:
            end = time.monotonic() + 2.5
            while time.monotonic() < end or sum(servicer.attempts for servicer in both) < 300:
                assert await failure(client) is grpc.StatusCode.NOT_FOUND
    assert min(servicer.attempts for servicer in both) >= max(servicer.attempts for servicer in both) - 20


async def test_an_invalid_request_is_an_exception_with_the_fields() -> None:
    """google.rpc.BadRequest in the status (AIP-193); code that handles gRPC's own error still does."""
    details = any_pb2.Any()
    violation = error_details_pb2.BadRequest.FieldViolation(field="interval", description="is negative")
    details.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="no", details=[details])

    class Refusing(greeter_pb2_grpc.GreeterServiceServicer):
        trailing = status.SerializeToString()

        async def Greet(self, request: Any, context: Any) -> greeter_pb2.GreetResponse:  # noqa: N802
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no", (("grpc-status-details-bin", self.trailing),))
            return greeter_pb2.GreetResponse()

        async def WatchGreetings(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            await self.Greet(request, context)
            yield greeter_pb2.WatchGreetingsResponse()

    servicer = Refusing()
    register = functools.partial(greeter_pb2_grpc.add_GreeterServiceServicer_to_server, servicer)
    async with served(register) as address, GreeterClient(f"ipv4:{address}", timeout=DEADLINE) as client:
        for call in (client.greet("x"), anext(client.watch_greetings("x"))):
            with pytest.raises(InvalidRequestError) as error:
                await call
            assert error.value.fields == {"interval": "is negative"}
            assert isinstance(error.value, grpc.aio.AioRpcError)
            assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no")
        servicer.trailing = b"\xff garbage"
        with pytest.raises(grpc.aio.AioRpcError) as plain:
            await client.greet("x")
        assert not isinstance(plain.value, InvalidRequestError)


async def test_the_error_of_a_stream_cut_by_the_connections_age_says_so() -> None:
    """`timeout` was longer, so that nobody would look there."""
    age = {"SERVER__MAX_CONNECTION_AGE": "200ms", "SERVER__MAX_CONNECTION_AGE_GRACE": "100ms"}
    with servers("a", **age) as running:
        async with GreeterClient(f"static:///{running['a'][1]}") as client:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                async for _ in client.watch_greetings("x", interval=0.01):
                    pass
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "SERVER__MAX_CONNECTION_AGE" in "".join(error.value.__notes__)


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
    async with GreeterClient(f"static:///{address}", options=options, interceptors=[Seen()], retry=ONCE) as client:
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
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "greeter", "grpc", "google", "opentelemetry", "typing_extensions"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from greeter.client.api import GreeterClient

async def main():
    async with GreeterClient(sys.argv[1], timeout=20.0) as client:
        print((await client.greet("Ada")).message)

asyncio.run(main())
print([name for name in sys.modules if name.startswith(("greeter.settings", "greeter.server"))])
"""


def test_it_needs_few_packages_and_reads_no_settings(tmp_path: Path) -> None:
    """Another program may have a `.env` and variables of its own, even some that look like this project's."""
    environment = PROJECT.environment({"SERVER__PORT": "many", "CLIENT__TIMEOUT": "0", "NO__SUCH": "x"})
    with servers("a") as running:
        (tmp_path / ".env").write_bytes(b"\xff GREETER__SERVER__PORT=many")
        command = [str(PROJECT.python), "-c", ALONE, f"static:///{running['a'][1]}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("Hello, Ada!\n[]\n", "")
