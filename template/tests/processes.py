"""The programs as processes, for tests of start and shutdown."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import {{ cookiecutter.package_name }}
from {{ cookiecutter.package_name }}.defaults import PREFIX

SERVER = ("-m", "{{ cookiecutter.package_name }}.server")
CLIENT = ("-m", "{{ cookiecutter.package_name }}.client")
DEADLINE = 30.0
"""Seconds after which a test fails; nothing is asserted about shorter times."""


class Process:
    """A process, and the output read so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.printed = ""

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line that matches."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := (await self._process.stdout.readline()).decode():
                self.printed += line
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"no line fits {pattern!r}:\n{self.printed}")

    async def address(self) -> str:
        """The address of a server, once it has logged that it serves."""
        return "127.0.0.1:" + (await self.line(r"serving as \S+ on port (\d+)"))[1]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the exit; its status."""
        async with asyncio.timeout(DEADLINE):
            rest, _ = await self._process.communicate()
        self.printed += rest.decode()
        assert self._process.returncode is not None
        return self._process.returncode


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts Python with arguments and settings, named without the prefix. Processes still running after the test are killed."""
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
