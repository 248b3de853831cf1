"""The story itself: steps in order, each with what was changed and when; the calls go on beside it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .modes import REFRESH, Mode
from .pair import Client, Discovery, GreeterClient, Loop, Result, Settings
from .servers import Server, free_port

ADDRESSES = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")
NOTICED = 1.0
"""Seconds after which a dead server is taken from the registry, as a failed readiness probe would do it."""


@dataclass(frozen=True)
class Step:
    """One step. `changed` is the moment of the registry's update; `server` whom it is about; `first` or `last` call counts."""

    name: str
    began: float
    ended: float
    server: str = ""
    changed: float | None = None
    expects: str = ""  # "first", "last" or nothing
    stopped: float | None = None


@dataclass
class Story:
    """Runs the story. `results` and `steps` grow while it runs; times are `time.monotonic()` seconds."""

    mode: Mode
    rate: float
    seconds: float
    servers: list[Server] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    current: str = "starting three servers"
    began: float = 0.0

    async def run(self) -> None:
        """All of it; processes are ended whatever happens. Raises DemoError."""
        port = free_port(list(ADDRESSES))
        self.servers.extend(Server(f"server-{number}", address, port) for number, address in enumerate(ADDRESSES, 1))
        try:
            await self.mode.start(port)
            await asyncio.gather(*(server.start() for server in self.servers[:3]))
            self._publish()
            await self._call_during(self._steps)
        finally:
            await asyncio.gather(*(server.close() for server in self.servers))
            await self.mode.close()

    async def _call_during(self, steps: Callable[[], Awaitable[None]]) -> None:
        settings = Settings(
            client=Client(target=self.mode.target, rate=self.rate),
            discovery=Discovery(refresh=REFRESH, dns_servers=getattr(self.mode, "servers", ())),
        )
        stopping = asyncio.Event()
        async with GreeterClient.connect(settings) as greeter:
            await greeter.greet("warm-up", timeout=20)
            self.began = time.monotonic()
            calling = asyncio.create_task(Loop(greeter, settings.client, self.results.append).run(stopping))
            try:
                await steps()
            finally:
                stopping.set()
                await calling

    async def _steps(self) -> None:
        first, second, _, fourth = self.servers
        await self._step("steady", self._nothing)
        await self._step("add", self._add, fourth, "first")
        await self._step("drain", self._drain, first, "last")
        await self._step("kill", self._kill, second, "last")
        await self._step("bring back", self._add, second, "first")

    async def _step(
        self, name: str, act: Callable[[Server], Awaitable[float | None]], server: Server | None = None, expects: str = ""
    ) -> None:
        subject = server or self.servers[0]
        self.current = f"{name} {server.name}" if server else name
        began = time.monotonic()
        changed = await act(subject)
        # What was changed is watched for a full step, however long the change itself took.
        await asyncio.sleep(max(0.0, (changed or began) + self.seconds - time.monotonic()))
        stopped = subject.stopped_at if expects == "last" else None
        self.steps.append(Step(name, began, time.monotonic(), server.name if server else "", changed, expects, stopped))

    async def _nothing(self, _: Server) -> None:
        return None

    async def _add(self, server: Server) -> float:
        await server.start()
        return self._publish()

    async def _drain(self, server: Server) -> float:
        server.drain()
        changed = self._publish()  # Kubernetes marks a terminating pod at the moment of its SIGTERM
        await server.ended()
        return changed

    async def _kill(self, server: Server) -> float:
        changed = time.monotonic()
        server.kill()
        await server.ended()
        await asyncio.sleep(NOTICED)
        self._publish()
        return changed

    def _publish(self) -> float:
        """Make those that serve the registry's truth; returns when."""
        now = time.monotonic()
        self.mode.publish([server for server in self.servers if server.state == "serving"])
        return now
