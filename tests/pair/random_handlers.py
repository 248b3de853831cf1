"""Handlers of random shape: a script, which every kind and style of handler follows, and a client that follows its own part of it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from hypothesis import strategies as st

LIMIT = 300
"""The largest message in bytes that the server takes, and that the client takes."""

Metadata = tuple[tuple[str, str | bytes], ...]


class OddError(Exception):
    """With an argument that the exception's text does not show as it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Severe(BaseException):
    """Neither an Exception nor one of Python's own."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("secret"),
    "empty": lambda: ValueError(),
    "unicode": lambda: LookupError("secret \n ü \0 \udcff"),
    "Odd": OddError,
    "Severe": lambda: Severe("secret"),
    "CancelledError": lambda: asyncio.CancelledError("secret"),
    "StopAsyncIteration": lambda: StopAsyncIteration("secret"),
    "StopIteration": lambda: StopIteration("secret"),
    "TimeoutError": lambda: TimeoutError("secret"),
    "ExceptionGroup": lambda: ExceptionGroup("secret", [RuntimeError("secret"), ValueError("secret")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("secret", [Severe("secret")]),
    "AbortError": lambda: grpc.aio.AbortError("secret"),
    "UsageError": lambda: grpc.aio.UsageError("secret"),
    "InternalError": lambda: grpc.aio.InternalError("secret"),
    "RpcError": lambda: grpc.RpcError("secret"),
    "AioRpcError": lambda: grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "secret", "secret"
    ),
}
LOST = {"unicode", "Odd", *(name for name, make in RAISED.items() if not isinstance(make(), Exception))}
"""Those after which grpc.aio leaves the caller without a status: no Exception, or one whose text cannot be sent."""
_LOST = {("raise", name) for name in LOST}


@dataclass(frozen=True)
class Text:
    """A message. Not a str: grpc.aio encodes those by itself."""

    text: str


def parse(raw: bytes) -> Text:
    return Text(raw.decode())


def serialize(message: Text) -> bytes:
    return message.text.encode()


@dataclass(frozen=True)
class Step:
    """One thing that a handler does. caught: what the handler catches of it."""

    name: str
    value: Any = None
    caught: type[BaseException] | tuple[()] = ()


@dataclass(frozen=True)
class Script:
    """requests, responses: whether they are streams.   style: coroutine, generator, or thread.   messages: what the client sends.
    leaves: after so many responses the client cancels; -1: when the handler hangs.   deadline: whether the client has a short one."""

    requests: bool
    responses: bool
    style: str
    steps: tuple[Step, ...]
    messages: tuple[bytes, ...] = (b"x",)
    leaves: int | None = None
    deadline: bool = False

    @property
    def method(self) -> str:
        return f"{'stream' if self.requests else 'unary'}_{'stream' if self.responses else 'unary'}_{self.style}"


@dataclass
class Run:
    """A script on its way through one server."""

    script: Script
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    spawned: set[Any] = field(default_factory=set)
    raised: BaseException | None = None
    """What has left the handler."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    """What it has set."""
    left: bool = False
    """Whether anything has, also None."""


RUNS: dict[str, Run] = {}


def _run(context: Any) -> Run:
    return RUNS[dict(context.invocation_metadata())["run"]]


def _seen(context: Any, status: str = "") -> Text:
    """What the context tells, which is the same on every server. A thread may outlive its call, whose peer is then in memory that gRPC
    has freed."""
    told = [(key, value) for key, value in context.invocation_metadata() if key == "own"]
    return Text(f"{status} {told}")


async def _perform(step: Step, context: Any, run: Run, received: AsyncIterator[Text] | None) -> Any:
    """The message that this step sends, if any."""
    value = step.value
    match step.name:
        case "say" | "return":
            return value
        case "see":
            return _seen(
                context, f"{context.code()} {context.details()!r} {context.peer()[:4]} {context.time_remaining() is None}"
            )
        case "write":
            await context.write(value)
        case "receive":
            return Text("none") if received is None else await anext(received, Text("end"))
        case "read":
            read = await context.read()
            return Text("end") if read is grpc.aio.EOF else read
        case "impatient":
            async with asyncio.timeout(0.001):
                return Text(str(await context.read()))
        case "raise":
            raise RAISED[value]()
        case "abort":
            await context.abort(*value)
        case "initial":
            await context.send_initial_metadata(value)
        case "hang":
            run.hanging.set()
            await asyncio.Event().wait()
        case "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case "spawn":
            run.spawned.add(asyncio.create_task(_afterwards(context, run)))
        case _:
            _set(step, context, run)
    return None


def _set(step: Step, context: Any, run: Run) -> None:
    getattr(context, step.name)(step.value)
    if step.name != "set_trailing_metadata":
        setattr(run, step.name.removeprefix("set_"), step.value)


async def _afterwards(context: Any, run: Run) -> None:
    """Use the context of a call that has ended."""
    await run.over.wait()
    for late in (
        context.write(Text("late")),
        context.send_initial_metadata(()),
        context.abort(grpc.StatusCode.ABORTED, "late"),
        context.read(),
    ):
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.01):
                await late


async def _follow(request: Any, context: Any) -> AsyncIterator[Any]:
    """The script as an asynchronous generator of what it sends."""
    run = _run(context)
    received = request if run.script.requests and run.script.style == "generator" else None
    try:
        if not run.script.requests and request.text:
            yield request
        for step in run.script.steps:
            try:
                sent = await _perform(step, context, run, received)
            except step.caught:
                sent = Text("caught")
            if step.name == "return":
                return
            if sent is not None:
                yield sent
    except BaseException as error:
        run.raised = error
        raise
    finally:
        run.left = True


def _follow_on_a_thread(request: Any, context: Any) -> Iterator[Any]:
    run = _run(context)
    try:
        if not run.script.requests and request.text:
            yield request
        for step in run.script.steps:
            sent = None
            try:
                match step.name:
                    case "say" | "return":
                        sent = step.value
                    case "see":
                        sent = _seen(context)
                    case "receive":
                        sent = next(request, Text("end")) if run.script.requests else Text("none")
                    case "raise":
                        raise RAISED[step.value]()
                    case "abort":
                        context.abort(*step.value)
                    case "initial":
                        context.send_initial_metadata(step.value)
                    case "hang":
                        LOOP[0].call_soon_threadsafe(run.hanging.set)
                        run.ended.wait(30)
                    case "set_code" | "set_details" | "set_trailing_metadata":
                        _set(step, context, run)
            except step.caught:
                sent = Text("caught")
            if step.name == "return":
                return
            if sent is not None:
                yield sent
    except BaseException as error:
        run.raised = error
        raise
    finally:
        run.left = True


LOOP: list[asyncio.AbstractEventLoop] = []
"""The loop of all of the servers."""


async def _one(request: Any, context: Any) -> Any:
    """The last message is the response; a script that ends by `return` answers with that step's value."""
    response: Any = Text("")
    script = _run(context).script
    async for message in _follow(request, context):
        response = message
    if script.steps and script.steps[-1].name == "return":
        return script.steps[-1].value
    return response


async def _written(request: Any, context: Any) -> Any:
    async for message in _follow(request, context):
        await context.write(message)


def _one_on_a_thread(request: Any, context: Any) -> Any:
    response: Any = Text("")
    script = _run(context).script
    for message in _follow_on_a_thread(request, context):
        response = message
    if script.steps and script.steps[-1].name == "return":
        return script.steps[-1].value
    return response


def _generated(request: Any, context: Any) -> Any:
    return _follow_on_a_thread(request, context)


_HANDLERS: dict[tuple[bool, str], Any] = {
    (False, "coroutine"): _one,
    (False, "generator"): _one,  # with requests by their iterator
    (False, "thread"): _one_on_a_thread,
    (True, "coroutine"): _written,
    (True, "generator"): _follow,
    (True, "thread"): _follow_on_a_thread,
    (True, "iterator"): _generated,
}


def register(service: str, server: Any) -> None:
    """Every kind in every style, as generated code registers them."""
    handlers = {}
    for (responses, style), behavior in _HANDLERS.items():
        for requests in (False, True):
            kind = f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}"
            handler = getattr(grpc, f"{kind}_rpc_method_handler")(behavior, parse, serialize)
            handlers[f"{kind}_{style}"] = handler
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


# What is generated.

_codes = st.sampled_from([*grpc.StatusCode])
_texts = st.sampled_from(["", "why", "with ü and\nlines", "x" * 100])
_metadata = st.sampled_from(
    [(), (("own", "x"),), (("own", "x"), ("own", "y")), (("own-bin", b"\x00\xff"),), (("x-served-by", "mine"),)]
)
_sent = st.sampled_from([Text(""), Text("a"), Text("b" * 200), Text("c" * 400)])
_unserializable = st.sampled_from([None, 7, b"bytes", "str", Text("\udcff")])
_caught = st.sampled_from([(), (), (), Exception, BaseException])
_simple = st.one_of(
    st.builds(Step, st.just("say"), _sent),
    st.builds(Step, st.sampled_from(["see", "receive", "receive", "read", "impatient"]), caught=_caught),
    st.builds(Step, st.just("write"), _sent, _caught),
    st.builds(Step, st.just("set_code"), _codes),
    st.builds(Step, st.just("set_details"), _texts),
    st.builds(Step, st.just("set_trailing_metadata"), _metadata),
    st.builds(Step, st.just("initial"), _metadata, _caught),
    st.builds(Step, st.just("spawn")),
)
_severe = st.one_of(
    st.builds(Step, st.just("raise"), st.sampled_from(sorted(RAISED)), _caught),
    st.builds(Step, st.just("abort"), st.tuples(_codes, _texts, _metadata), _caught),
    st.builds(Step, st.just("hang"), caught=_caught),
    st.builds(Step, st.just("cancel"), caught=_caught),
    st.builds(Step, st.just("say"), _unserializable),
    st.builds(Step, st.just("return"), _sent | _unserializable),
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Any."""
    responses = draw(st.booleans())
    style = draw(st.sampled_from([style for several, style in _HANDLERS if several == responses]))
    steps = draw(st.lists(_simple, max_size=4)) + draw(st.lists(_severe, max_size=1)) + draw(st.lists(_simple, max_size=2))
    requests = draw(st.booleans())
    least, most = (0, 4) if requests else (1, 1)
    large = [] if requests else [b"z" * 400]  # in a stream, the server's refusal comes before or after what the handler does
    messages = draw(st.lists(st.sampled_from([b"", b"x", b"y" * 200, b"\xff", *large]), min_size=least, max_size=most))
    lost = any(
        step.name == "cancel"
        or (step.name, step.value) in _LOST
        or (step.name == "abort" and step.value[0] is grpc.StatusCode.OK)
        for step in steps
    )
    hangs = any(step.name == "hang" for step in steps)
    deadline = lost or (hangs and draw(st.booleans()))
    leaves = -1 if hangs and not deadline else draw(st.none() | st.none() | st.integers(0, 2))
    return Script(requests, responses, style, tuple(steps), tuple(messages), leaves, deadline)
