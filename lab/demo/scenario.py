"""The story itself: steps in order, each with what was changed and when; the calls go on beside it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc.aio
from pydantic import ValidationError

from discovery import DiscoveryError

from .modes import Mode
from .pair import GreeterClient, Loop, Result, Settings, sentences
from .servers import START, DemoError, Server, places

ADDRESSES = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")
NOTICED = 1.0
"""Seconds after which a dead server is taken from the registry, as a failed readiness probe would do it."""

Act = Literal["steady", "add", "drain", "kill", "bring back"]
PLAN: tuple[tuple[Act, str], ...] = (
    ("steady", ""),
    ("add", "server-4"),
    ("drain", "server-1"),
    ("kill", "server-2"),
    ("bring back", "server-2"),
)


@dataclass(frozen=True)
class Step:
    """One step, in `time.monotonic()` seconds. changed: the registry's update, or the SIGKILL; None where nothing changed.
    stopped: the end of the process that was drained or killed.   serving: the names of those that serve at its end."""

    act: Act
    server: str
    began: float
    ended: float
    changed: float | None = None
    stopped: float | None = None
    serving: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.act} {self.server}".strip()

    @property
    def adds(self) -> bool:
        """Whether a server comes, rather than goes."""
        return self.act in ("add", "bring back")


@dataclass
class Story:
    """Runs the story, each step watched for `seconds`. `results`, `steps` and `servers` grow while it runs."""

    mode: Mode
    rate: float = 200.0
    seconds: float = 7.0
    addresses: Sequence[str] = ADDRESSES
    servers: list[Server] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    began: float | None = None

    async def run(self) -> None:
        """All of it; processes are ended whatever happens. Raises DemoError."""
        found = places(self.addresses)
        self.servers.extend(Server(f"server-{number}", *place) for number, place in enumerate(found, 1))
        try:
            await self.mode.start(self.servers)
            settings = self._settings()
            await self._start_three()
            await self._publish()
            await self._call(settings)
        finally:
            await asyncio.gather(*(server.close() for server in self.servers))
            await self.mode.close()

    async def _start_three(self) -> None:
        try:
            async with asyncio.TaskGroup() as starting:
                for server in self.servers[:3]:
                    starting.create_task(server.start())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _settings(self) -> Settings:
        """The environment's, as far as the story leaves the choice."""
        own: dict[str, Any] = {"client": {"target": self.mode.target, "rate": self.rate}, "discovery": self.mode.discovery}
        try:
            return Settings(**own)
        except ValidationError as error:
            raise DemoError("; ".join(sentences(error))) from None
        except ValueError as error:  # pydantic-settings: what it cannot even parse
            raise DemoError(f"the settings cannot be read: {error}") from None

    async def _call(self, settings: Settings) -> None:
        stopping = asyncio.Event()
        try:
            greeter = GreeterClient.connect(settings)
        except DiscoveryError as error:
            raise DemoError(f"no channel on {self.mode.target}: {error}") from None
        async with greeter:
            await self._all_answer(greeter)
            self.began = time.monotonic()
            calling = asyncio.create_task(Loop(greeter, settings.client, self.results.append).run(stopping))
            try:
                for act, name in PLAN:
                    await self._step(act, next((server for server in self.servers if server.name == name), None))
            finally:
                stopping.set()
                await calling

    async def _all_answer(self, greeter: GreeterClient) -> None:
        """Until everybody who is to be called was called."""
        wanted = 1 if self.mode.promise.spread == "one" else 3
        seen: set[str] = set()
        try:
            async with asyncio.timeout(START):
                while len(seen) < wanted:
                    seen.add((await greeter.greet("warm-up", timeout=START)).served_by)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            details = (
                error.details()
                if isinstance(error, grpc.aio.AioRpcError)
                else f"only {', '.join(sorted(seen)) or 'nobody'} answered"
            )
            raise DemoError(
                f"the client did not reach {wanted} servers through {self.mode.target} within {START:g} s: {details}"
            ) from None

    async def _step(self, act: Act, server: Server | None) -> None:
        began = time.monotonic()
        changed: float | None = None
        if server is not None and act in ("add", "bring back"):
            await server.start()
            changed = await self._publish()
        elif server is not None and act == "drain":
            server.drain()
            changed = await self._publish()  # Kubernetes marks a terminating pod at the moment of its SIGTERM
            await server.ended()
        elif server is not None and act == "kill":
            changed = time.monotonic()
            server.kill()
            await server.ended()
            await asyncio.sleep(NOTICED)
            await self._publish()
        # A change is watched for a full step, however long it took to make it.
        await asyncio.sleep(max(0.0, (changed or began) + self.seconds - time.monotonic()))
        stopped = server.lives[-1].ended if server is not None else None
        serving = tuple(server.name for server in self.servers if server.state == "serving")
        self.steps.append(Step(act, server.name if server else "", began, time.monotonic(), changed, stopped, serving))

    async def _publish(self) -> float:
        """Make those that serve the registry's truth; returns when."""
        return await self.mode.publish([server for server in self.servers if server.state == "serving"])
