"""The scenario itself: steps in order, each with what was changed and when; the calls go on beside it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import grpc.aio

from discovery import DiscoveryError

from ..load import SERVED_BY, Client, Load, Options, Result
from ..project import Project
from ..servers import START, Server, ServerError, places
from .modes import Mode

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
class Scenario:
    """Runs the scenario on a project, each step watched for `seconds`. `results`, `steps` and `servers` grow while it runs.

    retries: whether the client makes failed calls again.   settings: the servers', named without the project's prefix.
    """

    project: Project
    mode: Mode
    rate: float = 200.0
    seconds: float = 7.0
    addresses: Sequence[str] = ADDRESSES
    retries: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    began: float | None = None

    async def run(self) -> None:
        """All of it; processes are ended whatever happens. Raises ServerError."""
        found = places(self.addresses)
        self.servers.extend(
            Server(self.project, f"server-{number}", *place, settings=dict(self.settings))
            for number, place in enumerate(found, 1)
        )
        try:
            await self.mode.start(self.servers)
            await self._start_three()
            await self._publish()
            await self._call()
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

    async def _call(self) -> None:
        stopping = asyncio.Event()
        try:
            client = Client(self.mode.target, Options(retries=self.retries, config=self.mode.config))
        except DiscoveryError as error:
            raise ServerError(f"no channel on {self.mode.target}: {error}") from None
        async with client:
            await self._all_answer(client)
            self.began = time.monotonic()
            calling = asyncio.create_task(Load(client, self.rate, self.results.append).run(stopping))
            try:
                for act, name in PLAN:
                    await self._step(act, next((server for server in self.servers if server.name == name), None))
            finally:
                stopping.set()
                await calling

    async def _all_answer(self, client: Client) -> None:
        """Until every server that is to be called was called."""
        wanted = 1 if self.mode.promise.spread == "one" else 3
        seen: set[str] = set()
        try:
            async with asyncio.timeout(START):
                while len(seen) < wanted:
                    seen.add(await client.call(START))
                    if "" in seen:
                        raise ServerError(
                            f"a server of {self.project.folder} does not name itself in the metadata {SERVED_BY}; "
                            "update the project from its template"
                        )
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            details = (
                error.details()
                if isinstance(error, grpc.aio.AioRpcError)
                else f"only {', '.join(sorted(seen)) or 'no server'} answered"
            )
            raise ServerError(
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
