"""The server as a process: it starts, drains, and ends; or says why it cannot start."""

import signal

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from {{ cookiecutter.package_name }}.defaults import PREFIX

from tests.processes import DEADLINE, SERVER, Start

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_server_says_that_it_serves_and_who_it_is(start: Start) -> None:
    """By health, and by x-served-by in its initial metadata."""
    server = await start(*SERVER, SERVER__NAME="a")
    async with grpc.aio.insecure_channel(await server.address()) as channel:
        call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert (await call).status == SERVING
        assert ("x-served-by", "a") in tuple(await call.initial_metadata())


async def test_sigterm_says_not_serving_first_and_lets_a_call_under_way_end(start: Start) -> None:
    """Then the exit status is 0. The call is of the reflection service, which every server has."""
    server = await start(*SERVER, SERVER__DRAIN__WAIT="0s")
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(await server.address()) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert (await health.read()).status == SERVING
        under_way = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=DEADLINE)
        await under_way.write(question)
        await under_way.read()
        server.send(signal.SIGTERM)
        assert (await health.read()).status == NOT_SERVING
        health.cancel()
        await server.line("draining")
        await under_way.write(question)
        assert (await under_way.read()).list_services_response.service
        await under_way.done_writing()
        assert await under_way.code() is grpc.StatusCode.OK
    assert await server.ended() == 0
    assert "Traceback" not in server.printed


async def test_a_second_sigterm_ends_a_server_at_once(start: Start) -> None:
    """Whoever sends two does not want to wait ten minutes."""
    drain = {"SERVER__DRAIN__WAIT": "10m", "SERVER__DRAIN__TERMINATION_GRACE": "1h"}
    server = await start(*SERVER, **drain)
    await server.address()
    server.send(signal.SIGTERM)
    await server.line("draining")
    server.send(signal.SIGTERM)
    assert await server.ended() == 0


async def test_a_port_that_is_taken_is_a_sentence(start: Start) -> None:
    """A second server would silently take half of the calls."""
    port = (await (await start(*SERVER)).address()).rpartition(":")[2]
    second = await start(*SERVER, SERVER__PORT=port)
    assert await second.ended() == 1
    assert f"cannot listen on {PREFIX}SERVER__HOST=127.0.0.1 with {PREFIX}SERVER__PORT={port}" in second.printed
    assert "Traceback" not in second.printed


BROKEN = """
from contextlib import asynccontextmanager
from {{ cookiecutter.package_name }}.server import __main__, servicer

@asynccontextmanager
async def services(settings):
    raise ConnectionError("no database at db:5432")
    yield []

servicer.services = services
__main__.main()
"""


async def test_a_resource_that_cannot_be_opened_is_a_sentence(start: Start) -> None:
    """What `services` in server/servicer.py raises ends the start."""
    server = await start("-c", BROKEN)
    assert await server.ended() == 1
    assert "server: cannot start: ConnectionError: no database at db:5432\n" in server.printed
    assert "Traceback" not in server.printed
