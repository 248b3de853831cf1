"""Health: the services' readiness, which their owner can change, and liveness, which is the event loop's alone."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter.server import Service
from greeter.server.app import App, build
from greeter.settings import Server, Settings

from .calls import NOT_SERVING, SERVING
from .processes import DEADLINE


@pytest.fixture
def services() -> list[Service]:
    return [Service(name, lambda servicer, server: None, None) for name in ("a.A", "b.B")]


@pytest.fixture
async def app(services: list[Service]) -> AsyncIterator[App]:
    services[1].serving = False
    app = await build(Settings(server=Server(host="127.0.0.1", port=0)), services)
    await app.start()
    yield app
    await app.server.stop(0)
    await app.close()


@pytest.fixture
async def stub(app: App) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def statuses(stub: Any) -> dict[str, int]:
    names = ("a.A", "b.B", "", "liveness")
    return {name: (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE)).status for name in names}


async def test_an_owner_can_set_a_service_not_serving_and_serving_again(services: list[Service], stub: Any) -> None:
    """By one call, at any time; the server as a whole is ready while all of its services are, and alive all the while."""
    assert await statuses(stub) == {"a.A": SERVING, "b.B": NOT_SERVING, "": NOT_SERVING, "liveness": SERVING}
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    assert (await watch.read()).status == NOT_SERVING
    await services[1].set_serving(True)
    assert (await watch.read()).status == SERVING
    assert set((await statuses(stub)).values()) == {SERVING}
    await services[0].set_serving(False)
    assert (await watch.read()).status == NOT_SERVING
    assert await statuses(stub) == {"a.A": NOT_SERVING, "b.B": SERVING, "": NOT_SERVING, "liveness": SERVING}


async def test_during_a_drain_all_but_liveness_is_not_serving(app: App, services: list[Service], stub: Any) -> None:
    """Whatever the owner says afterwards: a server that drains must not be restarted, and gets no calls."""
    await app.health.drain()
    await services[1].set_serving(True)
    assert await statuses(stub) == {"a.A": NOT_SERVING, "b.B": NOT_SERVING, "": NOT_SERVING, "liveness": SERVING}
