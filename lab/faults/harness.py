"""One fault's surroundings: server processes, a client that calls by the clock, its results, status and log."""

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import discovery
from lab.load import CHECK, Client, Load, Options, Result
from lab.project import Project
from lab.servers import Server

from .catalog import Fault, Row

RATE = 100.0
"""Calls a second."""
SLOW = 1.0
"""Seconds; a call that takes longer has not gone well, even where it was answered in the end."""
CALM = 4.0
"""Seconds without a bad call that count as recovered: longer than a call's deadline."""
LIMIT = 120.0
"""Seconds after which a fault that is not over counts as one that lasts."""


class _LogCapture(logging.Handler):
    """Keeps what is logged from WARNING on, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines[text] = self.lines.get(text, 0) + 1


class Harness:
    """Owns whatever a fault needs and removes all of it at the end. An asynchronous context manager."""

    def __init__(self, fault: Fault, project: Project) -> None:
        self.fault = fault
        self.project = project
        self._stack = contextlib.AsyncExitStack()
        self._log = _LogCapture()
        self.marked = 0.0
        """When the fault began, `time.monotonic()` seconds."""
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._recovered: float | None = None
        self._kept_status = ""
        self.results: list[Result] = []
        self.target = ""
        self.client: Client | None = None

    async def __aenter__(self) -> "Harness":
        root = logging.getLogger()
        root.addHandler(self._log)
        self._stack.callback(root.removeHandler, self._log)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def at_end(self, undo: Callable[[], object]) -> None:
        """Call `undo` at the end."""
        self._stack.callback(undo)

    async def enter(self, manager: contextlib.AbstractAsyncContextManager[Any]) -> Any:
        """Enter it now, leave it at the end."""
        return await self._stack.enter_async_context(manager)

    # ---- servers ----

    def placed(self, *addresses: str, one_port: bool = False, settings: Mapping[str, str] | None = None) -> list[Server]:
        """Servers a, b, c, ... at these addresses, not started; settings are named without the project's prefix."""
        made = [
            Server(self.project, name, address, port, settings=dict(settings or {}))
            for name, (address, port) in zip("abcdef", _free(addresses, one_port), strict=False)
        ]
        for server in made:
            self._stack.push_async_callback(server.close)
        return made

    async def servers(self, count: int, **settings: str) -> list[Server]:
        """So many server processes on loopback, serving."""
        made = self.placed(*["127.0.0.1"] * count, settings=settings)
        await asyncio.gather(*(server.start() for server in made))
        return made

    def manual(self, *authorities: str) -> discovery.Manual:
        """A registry that keeps listing what it was given, dead servers too: the slowest of all."""
        listing = discovery.Manual(uuid.uuid4().hex)
        listing.set(authorities)
        self.target = listing.target
        return listing

    def listed(self, *authorities: str) -> None:
        """A fixed list, whose servers are watched for their health: one that drains is left."""
        self.target = "static:///" + ",".join(authorities)

    # ---- calls ----

    async def call(self, *, rate: float = RATE, options: Options | None = None, method: str = CHECK) -> None:
        """Call `self.target` by the clock until the end, by default as a project's client does."""
        client = self.client = Client(self.target, options or Options(), method)
        stopping = asyncio.Event()
        calling = asyncio.create_task(Load(client, rate, self.results.append).run(stopping))

        async def stop() -> None:
            stopping.set()
            await calling
            await client.channel.close()

        self._stop = stop
        self._stack.push_async_callback(self.stop_calling)

    async def stop_calling(self) -> None:
        """End the client and close its channel; a second time does nothing."""
        stop, self._stop = self._stop, None
        if stop is not None:
            await stop()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that no event announces. Raises TimeoutError naming `what` after LIMIT."""
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}, not within {LIMIT:g} s; status: {self.status()}; log: {list(self._log.lines)}")
            await asyncio.sleep(0.02)

    async def served_by(self, *names: str) -> None:
        """Until each of these has answered a call that began after now."""
        now = time.monotonic()
        await self.until(
            lambda: {result.server for result in self.results if result.started > now} >= set(names),
            f"calls to {', '.join(names)}",
        )

    # ---- results ----

    def mark(self) -> None:
        """The fault begins now."""
        self.marked = time.monotonic()
        self._log.lines.clear()

    def keep_status(self) -> None:
        """Keep the status of this moment for the row."""
        self._kept_status = self.status()

    def since(self) -> list[Result]:
        """The calls that began after the fault, and those that it caught under way."""
        return [result for result in self.results if result.started + result.duration > self.marked]

    async def calm(self) -> None:
        """Until no call has gone wrong for CALM seconds; the time of the last that did is when the fault was over."""

        def over() -> bool:
            return time.monotonic() - max(self.marked, self._last_bad()) > CALM

        await self.until(over, "calls that go well")
        self._recovered = max(0.0, self._last_bad() - self.marked)

    def recovered_since(self, moment: float) -> None:
        """The fault is over now, and its end is counted from `moment` on (`time.monotonic()` seconds)."""
        self._recovered = time.monotonic() - moment

    def _last_bad(self) -> float:
        return max((result.started for result in self.since() if result.code != "OK" or result.duration > SLOW), default=0.0)

    def status(self) -> str:
        """discovery's status as a line."""
        try:
            status = discovery.status(self.target)
        except discovery.TargetError:
            return "no status: gRPC resolves this target"
        listed = f"{len(status.snapshot)} endpoints" if status.snapshot is not None else "no set yet"
        error = f"; {status.last_error}" if status.last_error else ""
        return f"{status.state}, {listed}{error}"

    def logged(self) -> list[str]:
        """Warnings and errors since the fault, each once."""
        return list(self._log.lines)

    def failed(self) -> list[Result]:
        """The calls since the fault that failed."""
        return [result for result in self.since() if result.code != "OK"]

    def row(self, held: bool, note: str = "") -> Row:
        """What came of it."""
        log = self.logged()
        codes = Counter(result.code for result in self.failed())
        more = f" (and {len(log) - 1} more)" if len(log) > 1 else ""
        return Row(
            self.fault.name, self.fault.promise, held, len(self.since()), len(self.failed()), self._recovered,
            self._kept_status or self.status(), f"{log[0]}{more}" if log else "nothing", note,
            ", ".join(code for code, _ in codes.most_common()),
        )  # fmt: skip


def _free(addresses: Sequence[str], one_port: bool) -> list[tuple[str, int]]:
    with contextlib.ExitStack() as held:
        found: list[tuple[str, int]] = []
        for address in addresses:
            bound = held.enter_context(socket.socket())
            bound.bind((address, found[-1][1] if found and one_port else 0))
            found.append((address, bound.getsockname()[1]))
        return found
