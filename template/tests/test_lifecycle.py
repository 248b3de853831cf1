"""The server as a process: start, drain, exit, and errors at the start."""

import signal

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from {{ cookiecutter.package_name }}.defaults import PREFIX

from tests.processes import DEADLINE, SERVER, Start

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_is_serving_and_calls_have_the_servers_name(start: Start) -> None:
    """The name is in the trailing metadata x-served-by."""
    server = await start(*SERVER, SERVER__NAME="a")
    async with grpc.aio.insecure_channel(await server.address()) as channel:
        call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert (await call).status == SERVING
        assert ("x-served-by", "a") in tuple(await call.trailing_metadata())


async def test_sigterm_reports_not_serving_and_lets_calls_in_progress_finish(start: Start) -> None:
    """Then the exit status is 0. The call is to the reflection service, which every server has."""
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
        await server.line("draining")
        await under_way.write(question)
        assert (await under_way.read()).list_services_response.service
        await under_way.done_writing()
        assert await under_way.code() is grpc.StatusCode.OK
    assert await server.ended() == 0
    assert "Traceback" not in server.printed


async def test_a_second_sigterm_stops_a_server_immediately(start: Start) -> None:
    """Whatever the drain's settings are; its status is the signal's."""
    drain = {"SERVER__DRAIN__WAIT": "10m", "SERVER__DRAIN__TERMINATION_GRACE": "1h"}
    server = await start(*SERVER, **drain)
    await server.address()
    server.send(signal.SIGTERM)
    await server.line("draining")
    server.send(signal.SIGTERM)
    assert await server.ended() == 128 + signal.SIGTERM


async def test_a_port_in_use_is_one_sentence_of_error(start: Start) -> None:
    """Otherwise a second server would silently get half of the calls."""
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


async def test_a_resource_that_cannot_be_opened_is_one_sentence_of_error(start: Start) -> None:
    """An exception from `services` in server/servicer.py."""
    server = await start("-c", BROKEN)
    assert await server.ended() == 1
    assert '"cannot start: ConnectionError: no database at db:5432"' in server.printed
    assert "Traceback" not in server.printed
