"""A bare server of grpc.aio and two wrapped ones with the same handlers, and what a client sees of them."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from opentelemetry import trace

from greeter.discovery.calls.concurrency_limit import ConcurrencyLimit
from greeter.discovery.calls.handler import Calls

from .measured import Measured
from .processes import DEADLINE
from .random_handlers import LOOP, RUNS, register
from .random_scripts import LIMIT, Run, Script

IDS = itertools.count()
TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass(frozen=True)
class Seen:
    """What a client sees of a call."""

    messages: tuple[bytes, ...]
    code: str
    details: str
    initial: tuple[tuple[str, str | bytes], ...]
    trailing: tuple[tuple[str, str | bytes], ...]


class Log(logging.Handler):
    """Everything that is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "PollerCompletionQueue" in record.getMessage():
            return  # of several event loops in one process, as tests have them, gRPC wakes the wrong one (grpc#25364)
        record.__dict__["trace"] = trace.get_current_span().get_span_context().trace_id
        self.records.append(record)


def _metadata(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata or () if key != "x-served-by")


async def call(service: str, channel: grpc.aio.Channel, run: Run, deadline: float) -> Seen:
    """The client's part of the script."""
    script, name = run.script, f"{next(IDS)}"
    RUNS[name] = run
    kind: Any = getattr(channel, f"{'stream' if script.requests else 'unary'}_{'stream' if script.responses else 'unary'}")
    name_of_run = (("run", name), ("own", "a"), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
    timeout = deadline if script.deadline else DEADLINE
    made: Any = kind(f"/{service}/{script.method}")(
        *(() if script.requests else script.messages), timeout=timeout, metadata=name_of_run
    )
    sending = asyncio.create_task(_send(script.messages, made)) if script.requests else None
    leaving = asyncio.create_task(_leave_when_hanging(run, made)) if script.leaves == -1 else None
    messages: list[bytes] = []
    try:
        if script.responses:
            while script.leaves is None or script.leaves < 0 or len(messages) < script.leaves:
                message = await made.read()
                if message is grpc.aio.EOF:
                    break
                messages.append(message)
            else:
                made.cancel()
        else:
            if script.leaves == 0:
                made.cancel()
            messages.append(await made)
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
    finally:
        for task in filter(None, (leaving, sending)):
            task.cancel()
    seen = Seen(
        tuple(messages),
        (await made.code()).name,
        await made.details(),
        _metadata(await made.initial_metadata()),
        _metadata(await made.trailing_metadata()),
    )
    run.ended.set()
    run.over.set()
    del RUNS[name]
    return seen


async def _send(messages: tuple[bytes, ...], made: Any) -> None:
    """Not by an iterator: where a call ends early, grpc.aio makes of its next message an error of the client's own."""
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for message in messages:
            await made.write(message)
        await made.done_writing()


async def _leave_when_hanging(run: Run, made: Any) -> None:
    await run.hanging.wait()
    made.cancel()


class Threads(ThreadPoolExecutor):
    """A thread for each call, because grpc.aio itself never gives back those of generators whose caller has left."""

    def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(function(*arguments, **more))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


class Servers:
    """Three servers with the same handlers: bare, wrapped without telemetry, wrapped with it."""

    def __init__(self) -> None:
        self.log = Log()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(Threads())
        self.limits = [ConcurrencyLimit(10, 1_000_000) for _ in range(2)]
        self.calls = [
            Calls(name="a", limit=self.limits[0]),
            Calls(name="a", limit=self.limits[1], telemetry=Measured().telemetry),
        ]
        LOOP[:] = [self.loop]
        self.channels, self.kept = self.loop.run_until_complete(self._start())
        self.tasks = asyncio.all_tasks(self.loop)

    async def _start(self) -> tuple[dict[str, grpc.aio.Channel], list[grpc.aio.Server]]:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", LIMIT)]
        channels, kept = {}, []
        for name, calls in zip(("test.Bare", "test.Off", "test.On"), (None, *self.calls), strict=True):
            server = grpc.aio.server(options=options)
            register(name, server if calls is None else calls.on(server))
            channels[name] = grpc.aio.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", options)
            await server.start()
            kept.append(server)
        return channels, kept

    async def _call(self, runs: dict[str, Run], deadline: float) -> list[Seen]:
        seen = await asyncio.gather(*(call(name, self.channels[name], run, deadline) for name, run in runs.items()))
        end = self.loop.time() + DEADLINE
        while left := self._left():
            await asyncio.wait(left, timeout=end - self.loop.time())
            assert self.loop.time() < end, left
        return seen

    def _left(self) -> set[asyncio.Task[Any]]:
        """The tasks but for those by which each server awaits its next call, and those of threads that grpc.aio itself leaves behind
        where a caller has left their generator."""
        tasks = asyncio.all_tasks() - self.tasks - {asyncio.current_task()}
        return {task for task in tasks if getattr(task.get_coro(), "__name__", "") not in ("_request_call", "put")}

    def call(self, script: Script, deadline: float, *names: str) -> tuple[list[Run], list[Seen], list[logging.LogRecord]]:
        """The same call to some of them."""
        runs = {name: Run(script) for name in names}
        self.log.records.clear()
        # Instead of pytest's handlers: random text may hold half a surrogate pair, with which pytest-xdist cannot send a report.
        root = logging.getLogger()
        handlers, root.handlers = root.handlers, [self.log]
        try:
            seen = self.loop.run_until_complete(self._call(runs, deadline))
            gc.collect()  # of what nobody has awaited, asyncio writes now
        finally:
            root.handlers = handlers
        return list(runs.values()), seen, list(self.log.records)


@functools.cache
def servers() -> Servers:
    """One for all examples."""
    made = Servers()
    gc.collect()
    gc.freeze()
    return made
