"""Scripts for handlers of random shape, and for the client that calls them."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from hypothesis import strategies as st

LIMIT = 300
"""The largest message in bytes that the server takes, and that the client takes."""

STYLES = ("coroutine", "generator", "thread", "iterator")
"""Only a handler of a response stream returns an iterator."""

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
    style = draw(st.sampled_from(STYLES if responses else STYLES[:3]))
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
