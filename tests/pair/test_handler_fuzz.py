"""The wrapper around handlers: whatever a handler does, the caller sees what a bare server of grpc.aio would show it, but for the error guard."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as how
from opentelemetry import trace

from greeter.discovery.calls.concurrency_limit import ConcurrencyLimit
from greeter.discovery.calls.handler import Calls

from .measured import Measured
from .processes import DEADLINE
from .random_handlers import LIMIT, LOOP, LOST, RAISED, RUNS, Run, Script, Step, Text, register, scripts

EXAMPLES = os.environ.get("EXAMPLES")
"""How many random scripts to try; by itself 150, always the same ones."""
IDS = itertools.count()
THREADS = ("thread", "iterator")
MALFORMED = "malformed"
LATE = "Deadline Exceeded"
CORE = "Internal error from Core"
"""What the client makes of a message that it sends after the call has ended."""
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
        seen = self.loop.run_until_complete(self._call(runs, deadline))
        gc.collect()  # of what nobody has awaited, asyncio writes now
        return list(runs.values()), seen, list(self.log.records)


@functools.cache
def servers() -> Servers:
    """One for all examples."""
    made = Servers()
    logging.getLogger().addHandler(made.log)
    gc.collect()
    gc.freeze()
    return made


def expected(bare: Seen, run: Run) -> Seen:
    """What the wrapper makes of what a bare server shows."""
    if bare.details.startswith("Unexpected <class 'UnicodeDecodeError'>"):
        return replace(bare, code="INTERNAL", details=MALFORMED)
    if bare.details.startswith("Unexpected <class ") or _lost(run):
        code = "INTERNAL" if run.code is grpc.StatusCode.OK else run.code.name
        return replace(bare, code=code, details=run.details or "internal error")
    return bare


def _lost(run: Run) -> bool:
    """Whether a bare server leaves the caller without a status. Python itself raises GeneratorExit in what nobody needs any more."""
    raised = None if isinstance(run.raised, GeneratorExit) else type(run.raised)
    return any(step.name == "raise" and step.value in LOST and type(RAISED[step.value]()) is raised for step in run.script.steps)


def same(seen: Seen, wanted: Seen, run: Run) -> bool:
    """Of a call that its client leaves, it may have seen more or less."""
    if CORE in (seen.details, wanted.details):
        return True
    if wanted.details == MALFORMED:
        return (seen.code, "codec" in seen.details) == ("INTERNAL", False)
    if run.script.leaves is not None and {seen.code, wanted.code} == {"CANCELLED", "RESOURCE_EXHAUSTED"}:
        return True  # whichever comes first: it leaves, or it refuses a message that is too large
    if seen.code == wanted.code in ("CANCELLED", "DEADLINE_EXCEEDED"):
        count = min(len(seen.messages), len(wanted.messages))
        seen, wanted = (replace(each, messages=each.messages[:count], details="", initial=()) for each in (seen, wanted))
    if _lost(run):  # a bare server sends neither a status nor trailing metadata
        return seen.code == "RESOURCE_EXHAUSTED" or replace(seen, trailing=()) == replace(wanted, trailing=())
    return seen == wanted


def check(script: Script, deadline: float = 0.2) -> None:
    """Raises AssertionError for a difference."""
    _, [bare], _ = servers().call(script, deadline, "test.Bare")
    runs, wrapped, records = servers().call(script, deadline, "test.Off", "test.On")
    for (name, traced), run, seen in zip((("test.Off", 0), ("test.On", int(TRACE, 16))), runs, wrapped, strict=True):
        wanted = expected(bare, run)
        if bare.details.endswith(LATE) and (not script.deadline or script.style in THREADS):
            wanted = bare = seen  # a defect of grpc.aio, whose caller waits for ever
            assert script.deadline or not seen.details.endswith(LATE)
        assert same(seen, wanted, run), (wanted, seen)
        logged = [record for record in records if name in record.getMessage()]
        assert len(logged) <= 1, [record.getMessage() for record in logged]
        assert wanted == bare or logged or wanted.details == MALFORMED or CORE in (seen.details, wanted.details), wanted
        for record in logged:
            assert (record.name, record.levelno) == ("greeter.discovery.calls.handler", logging.ERROR), record.getMessage()
            assert record.__dict__["trace"] == traced
            assert record.exc_info
        records = [record for record in records if record not in logged]
    if script.style in THREADS:  # asyncio's own: the thread has raised when its caller was just leaving
        records = [record for record in records if "Future exception was never retrieved" not in record.getMessage()]
    records = [record for record in records if record.levelno > logging.WARNING]  # but for malformed requests, once a second
    assert not records, [record.getMessage() for record in records]
    for limit in servers().limits:
        assert (limit._running, limit._bytes, limit.readers) == (0, 0, {})


def differs(script: Script, deadline: float) -> AssertionError | None:
    """What `check` raises, if anything."""
    try:
        check(script, deadline)
    except AssertionError as error:
        return error
    return None


@how(
    max_examples=int(EXAMPLES or 150),
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a difference may take seconds to show; to shrink it would take minutes
)
@given(scripts())
@example(Script(False, False, "coroutine", (Step("write", Text("a")),)))
@example(Script(False, True, "generator", (Step("raise", "AbortError"),)))
@example(Script(True, True, "coroutine", (Step("raise", "InternalError"),)))
@example(Script(False, False, "thread", (Step("raise", "Severe"),), deadline=True))
def test_a_caller_sees_the_same_as_from_a_bare_server(script: Script) -> None:
    """And neither a task, a slot nor a line of gRPC's own log is left."""
    for deadline in (0.2, 1.0, 3.0):  # on a busy machine, it may pass before the server begins
        if (error := differs(script, deadline)) is None:
            return
    assert error is None, error
