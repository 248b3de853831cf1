"""Servers as processes on loopback addresses of their own and one port, as pods have them."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .pair import SERVER_MODULE

DRAIN = 1.5
"""Seconds that a server says NOT_SERVING before it stops."""


class DemoError(Exception):
    """Something on this machine keeps the demo from running; the text says what to do."""


def free_port(addresses: list[str]) -> int:
    """A port that is free on every address. Raises DemoError where an address is not this machine's."""
    for _ in range(50):
        with contextlib.ExitStack() as held:
            try:
                port = 0
                for address in addresses:
                    bound = held.enter_context(socket.socket())
                    bound.bind((address, port))
                    port = bound.getsockname()[1]
                return port
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise DemoError(
                        f"this system has no loopback address {address}; add it (on macOS: sudo ifconfig lo0 alias {address}), or use MODE=manual"
                    ) from None
    raise DemoError("no port is free on all of the demo's addresses; end other programs and try again")


@dataclass
class Server:
    """One server process; `state` is what a person would call it."""

    name: str
    address: str
    port: int
    state: str = "absent"
    stopped_at: float | None = None
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    _watching: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        return f"{self.address}:{self.port}"

    async def start(self) -> None:
        """Start the process and wait until its health says SERVING. Raises DemoError where it ends instead."""
        self.state, self.stopped_at = "starting", None
        environment = {
            **os.environ,
            "SERVER__HOST": self.address,
            "SERVER__PORT": str(self.port),
            "SERVER__NAME": self.name,
            "SERVER__DRAIN__WAIT": f"{DRAIN}s",
            "SERVER__DRAIN__GRACE": "3s",
            "LOG__LEVEL": "ERROR",
        }
        # Its own session: a Ctrl-C on the terminal is for the demo, which then ends its servers itself.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", SERVER_MODULE, env=environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        serving, ended = asyncio.create_task(self._serving()), asyncio.create_task(self._process.wait())
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not serving.done() or self._process.returncode is not None:
            serving.cancel()
            output = await self._process.stderr.read() if self._process.returncode is not None and self._process.stderr else b""
            raise DemoError(f"server {self.name} did not start: {output.decode(errors='replace').strip() or 'no answer within 30 s'}")
        await serving
        self.state = "serving"
        self._watching = asyncio.create_task(self._watch(self._process))

    async def _serving(self) -> None:
        async with grpc.aio.insecure_channel(self.authority, [("grpc.initial_reconnect_backoff_ms", 100)]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self.stopped_at = time.monotonic()
        self.state = "killed" if process.returncode == -signal.SIGKILL else "stopped"

    def drain(self) -> None:
        """SIGTERM: what Kubernetes sends."""
        self.state = "draining"
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a lost node looks like."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Wait for the end of a process that was told to end."""
        if self._watching is not None:
            await self._watching

    async def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
