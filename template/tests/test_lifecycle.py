"""Server and load generator as processes: they start, say who they are, drain and end; or say why they cannot start."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import {{ cookiecutter.package_name }}
from {{ cookiecutter.package_name }}.defaults import PREFIX

SERVER = ("-m", "{{ cookiecutter.package_name }}.server")
CLIENT = ("-m", "{{ cookiecutter.package_name }}.client")
DEADLINE = 30.0
"""Seconds after which a test gives up; nothing is asserted about shorter times."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """A process, and what it has printed as far as that was read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.printed = ""

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line that fits."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := (await self._process.stdout.readline()).decode():
                self.printed += line
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"no line fits {pattern!r}:\n{self.printed}")

    async def address(self) -> str:
        """Of a server, once it has logged that it serves."""
        return "127.0.0.1:" + (await self.line(r"serving as \S+ on port (\d+)"))[1]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit status."""
        async with asyncio.timeout(DEADLINE):
            rest, _ = await self._process.communicate()
        self.printed += rest.decode()
        assert self._process.returncode is not None
        return self._process.returncode


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts Python with arguments and settings, which are named without the prefix; what still runs after the test is killed."""
    source = str(Path({{ cookiecutter.package_name }}.__file__).parents[1])
    free = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", "CLIENT__HEALTH_HOST": "127.0.0.1", "CLIENT__HEALTH_PORT": "0"}
    running: list[asyncio.subprocess.Process] = []

    async def started(*arguments: str, **settings: str) -> Process:
        given = {PREFIX + name: value for name, value in {**free, "LOG__FORMAT": "json", **settings}.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env={**os.environ, "PYTHONPATH": source, "GRPC_VERBOSITY": "NONE", **given},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        running.append(process)
        return Process(process)

    yield started
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_server_says_that_it_serves_and_who_it_is(start: Start) -> None:
    """By health, and by x-served-by in the initial metadata of every call."""
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


async def test_the_load_generator_logs_who_served(start: Start) -> None:
    """Each server's first answer, then every second how many calls each has answered; SIGTERM ends it with status 0."""
    servers = [await start(*SERVER, SERVER__NAME=name) for name in ("a", "b")]
    target = "static:///" + ",".join([await server.address() for server in servers])
    client = await start(*CLIENT, CLIENT__TARGET=target, CLIENT__RATE="50")
    assert {(await client.line('"first": "([ab])"'))[1] for _ in servers} == {"a", "b"}
    second = json.loads((await client.line(r'^.*"served": \{"a": \d+, "b": \d+\}.*$'))[0])
    assert (second["errors"], second["skipped"]) == ({}, 0)
    client.send(signal.SIGTERM)
    assert await client.ended() == 0
    assert "Traceback" not in client.printed
