"""A project's servers as processes on loopback addresses of their own and one port, as pods have them."""

import asyncio
import atexit
import contextlib
import errno
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .project import Project, empty_folder, last_lines

DRAIN = 1.5
"""Seconds for which a server says NOT_SERVING before it stops."""
START = 30.0
"""Seconds that anything may take to come up."""


class ServerError(Exception):
    """Something on this machine keeps servers from running; the text says what to do."""


def places(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """An address and a free port for each server: one port on all addresses, or, where this system has no such loopback
    addresses (macOS), a port each on 127.0.0.1. Raises ServerError where none is free."""
    for _ in range(50):
        try:
            return _held([(address, None) for address in addresses])
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return _held([("127.0.0.1", 0) for _ in addresses])
    raise ServerError("no port is free on all of the servers' addresses; end other programs and try again")


def _held(wanted: Sequence[tuple[str, int | None]]) -> list[tuple[str, int]]:
    """Bind all at once, so that they are free together; a port of None is the one before."""
    found: list[tuple[str, int]] = []
    with contextlib.ExitStack() as held:
        for address, port in wanted:
            bound = held.enter_context(socket.socket())
            bound.bind((address, (found[-1][1] if found else 0) if port is None else port))
            found.append((address, bound.getsockname()[1]))
    return found


@dataclass
class Life:
    """When one process served; `time.monotonic()` seconds, None while it has not come to that."""

    began: float
    draining: float | None = None
    ended: float | None = None


@dataclass
class Server:
    """One server process after another.

    state: what a person would call it.   settings: further settings, named without the project's prefix.   through: a command that
    starts it, such as `ip netns exec ...`.
    """

    project: Project
    name: str
    address: str
    port: int
    state: str = "absent"
    settings: dict[str, str] = field(default_factory=dict)
    through: Sequence[str] = ()
    lives: list[Life] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    _watching: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def process_id(self) -> int | None:
        """The running process's; None before the first."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and wait until its health says SERVING. Raises ServerError where it ends instead."""
        self.state = "starting"
        drain = {"SERVER__DRAIN__WAIT": f"{DRAIN}s", "SERVER__DRAIN__GRACE": "3s", "LOG__LEVEL": "ERROR"}
        place = {"SERVER__HOST": self.address, "SERVER__PORT": str(self.port), "SERVER__NAME": self.name}
        with tempfile.TemporaryFile() as output:
            # Its own session: a Ctrl-C on the terminal is for the lab, which then ends its servers itself.
            process = await asyncio.create_subprocess_exec(
                *self.through,
                *self.project.command("server"),
                env=self.project.environment({**drain, **place, **self.settings}),
                cwd=empty_folder(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._process = process
            atexit.register(self._kill)  # what a second Ctrl-C would leave behind
            serving, ended = asyncio.create_task(self._serving()), asyncio.create_task(process.wait())
            try:
                await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=START)
                if not serving.done() or process.returncode is not None:
                    raise ServerError(
                        f"{self.name} did not start on {self.authority}: {_output(output) or f'no answer within {START:g} s'}"
                    )
                await serving
            finally:
                serving.cancel()
                ended.cancel()
        self.state = "serving"
        self.lives.append(Life(time.monotonic()))
        self._watching = asyncio.create_task(self._watch(process, self.lives[-1]))

    async def _serving(self) -> None:
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        async with grpc.aio.insecure_channel(self.authority, options) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    async def _watch(self, process: asyncio.subprocess.Process, life: Life) -> None:
        await process.wait()
        life.ended = time.monotonic()
        self.state = "killed" if process.returncode == -signal.SIGKILL else "stopped"

    def drain(self) -> None:
        """SIGTERM: what Kubernetes sends."""
        self.state, self.lives[-1].draining = "draining", time.monotonic()
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a lost node looks like."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Wait for the end of the process."""
        if self._watching is not None:
            await self._watching

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._kill()
        if self._process is not None:
            await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._send(signal.SIGKILL)


def _output(file: IO[bytes]) -> str:
    """The last lines that a process wrote, in one."""
    file.seek(0)
    return last_lines(file.read().decode(errors="replace"))
