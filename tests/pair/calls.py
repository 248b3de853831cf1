"""Calls of the example's methods for tests, by stubs; and calls of the typed client at a steady rate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from greeter.client.api import GreeterClient
from greeter.discovery.calls import served_by
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from .processes import DEADLINE

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def server_of(call: Any) -> str:
    """Which server has answered a call, by its metadata."""
    return str(dict((*call.initial_metadata(), *call.trailing_metadata())).get("x-served-by", ""))


def greet(channel: grpc.Channel, name: str = "", **more: Any) -> str:
    """One call; who answered."""
    stub = greeter_pb2_grpc.GreeterServiceStub(channel)
    _, call = stub.Greet.with_call(greeter_pb2.GreetRequest(name=name), timeout=DEADLINE, **more)
    return server_of(call)


def watch(channel: grpc.Channel, count: int = 0, milliseconds: int = 1) -> Any:
    """One stream."""
    request = greeter_pb2.WatchGreetingsRequest(count=count)
    request.interval.FromMilliseconds(milliseconds)
    return greeter_pb2_grpc.GreeterServiceStub(channel).WatchGreetings(request, timeout=DEADLINE)


def health(channel: grpc.Channel, service: str = "") -> int:
    """One check; the status."""
    request = health_pb2.HealthCheckRequest(service=service)
    return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE).status)


def watch_health(channel: grpc.Channel) -> Any:
    """The statuses as they change."""
    answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    return (answer.status for answer in answers)


def reflect(channel: grpc.Channel) -> set[str]:
    """The services that reflection lists."""
    ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answer = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask, timeout=DEADLINE))
    return {service.name for service in answer.list_services_response.service}


def inspect(channel: grpc.Channel) -> Any:
    """What channelz tells of the server."""
    return channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE)


@contextlib.asynccontextmanager
async def served(register: Callable[[grpc.aio.Server], object], port: int = 0) -> AsyncIterator[str]:
    """The address of a server in this process with whatever is registered."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    register(server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(0)


@dataclass(frozen=True, slots=True)
class Result:
    """One call. server: its name, empty if none answered.   code: gRPC's name."""

    server: str
    code: str


class Load:
    """A call of a typed client every five milliseconds, while its block runs; at its end the calls under way are awaited."""

    INTERVAL = 0.005

    def __init__(self, client: GreeterClient) -> None:
        self.results: list[Result] = []
        self._client = client
        self._answered = asyncio.Event()
        self._stopping = asyncio.Event()

    async def until(self, condition: Callable[[list[Result]], bool]) -> None:
        """Wait until the results are so."""
        async with asyncio.timeout(DEADLINE):
            while not condition(self.results):
                self._answered.clear()
                await self._answered.wait()

    async def _call(self) -> None:
        names: list[str] = []
        served_by.names.set(names)
        try:
            await self._client.greet("x")
            self.results.append(Result(names[-1], "OK"))
        except grpc.aio.AioRpcError as error:
            self.results.append(Result("", error.code().name))
        self._answered.set()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while not self._stopping.is_set():
                calls.create_task(self._call())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self.INTERVAL)

    async def __aenter__(self) -> "Load":
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._running
