"""What a handler gets as its context: grpc.aio's own, which reads and writes messages inside of the wrapper (handler.py)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio

from .concurrency_limit import ConcurrencyLimit
from .served_by import KEY

_END = object()


class MalformedRequestError(Exception):
    """A request that is not a message of the method's type."""


class CallContext:
    """A call's context. drain: set when the server drains.   error: what the handler has raised, if anything.

    The server's `name` is in the trailing metadata of every call, whoever sets it, and in the initial metadata of a response stream.
    """

    __slots__ = ("_context", "_held", "_limit", "_named", "_parse", "_sent", "_serialize", "drain", "error")

    def __init__(self, context: Any, handler: Any, limit: ConcurrencyLimit, name: str, drain: asyncio.Event) -> None:
        self._context = context
        self.drain = drain
        self._limit = limit
        self._parse = handler.request_deserializer
        self._serialize = handler.response_serializer
        # Metadata is ASCII (gRPC over HTTP/2); a setting may be anything.
        self._named = ((KEY, name.encode("ascii", "replace").decode()),) if name else ()
        self._held = 0
        self._sent = not (handler.response_streaming and name)
        self.error: BaseException | None = None
        if name:
            context.set_trailing_metadata(self._named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return self._context.time_remaining()  # type: ignore[no-any-return]

    async def request(self) -> Any:
        """The one request of a call that is not a request stream."""
        raw = await self._limit.receive(self._context)
        if raw is grpc.aio.EOF:
            # As gRPC's status codes say of a wrong number of requests.
            await self._context.abort(grpc.StatusCode.UNIMPLEMENTED, "the call has no request")
        return self._parsed(raw)

    async def requests(self) -> AsyncIterator[Any]:
        """The requests of a stream."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def read(self) -> Any:
        """The next request of a stream, or grpc.aio.EOF. Until the next one, it counts as bytes in flight."""
        self.release()
        raw = await self._context.read()
        return raw if raw is grpc.aio.EOF else self._parsed(await self._limit.hold(raw))

    async def write(self, message: Any) -> None:
        """Send a response of a stream."""
        if not self._sent:
            await self.send_initial_metadata(())
        await self._context.write(self._serialize(message) if self._serialize else message)

    async def send_initial_metadata(self, metadata: Any) -> None:
        self._sent = True
        await self._context.send_initial_metadata((*self._named, *metadata))

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._context.set_trailing_metadata((*self._named, *metadata))

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> Any:
        if trailing_metadata:
            trailing_metadata = (*self._named, *trailing_metadata)
        await self._context.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> None:
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def release(self) -> None:
        """The last request read is in flight no more."""
        if self._held:
            self._limit.release(self._held)
            self._held = 0

    def _parsed(self, raw: bytes) -> Any:
        self._held = self._limit.counted(raw)
        try:
            return self._parse(raw) if self._parse else raw
        except Exception as error:
            raise MalformedRequestError(f"a request of {len(raw)} bytes cannot be parsed: {type(error).__name__}") from None


current: ContextVar[CallContext | None] = ContextVar("current_call", default=None)
"""The call that this task serves; tasks that it starts inherit it."""


def on_threads(behavior: Callable[..., Any], handler: Any) -> Callable[..., Any]:
    """A handler that is not async, as an async one that runs it on a thread of the event loop's executor, as grpc.aio does."""

    def arguments(request: Any, context: CallContext) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return _blocking(request, loop) if handler.request_streaming else request, _ThreadContext(context, loop)

    async def one(request: Any, context: CallContext) -> Any:
        return await asyncio.to_thread(_call, behavior, *arguments(request, context))

    async def several(request: Any, context: CallContext) -> AsyncIterator[Any]:
        responses = iter(await asyncio.to_thread(_call, behavior, *arguments(request, context)))
        while (response := await asyncio.to_thread(_call, next, responses, _END)) is not _END:
            yield response

    return several if handler.response_streaming else one


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error  # a future cannot hold one, and would never be done


def _blocking(requests: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    while (request := asyncio.run_coroutine_threadsafe(anext(requests, _END), loop).result()) is not _END:
        yield request


class _ThreadContext:
    """The context for a handler on a thread."""

    def __init__(self, context: CallContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self._wait_for(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: Any) -> None:
        self._wait_for(self._context.abort_with_status(status))

    def send_initial_metadata(self, metadata: Any) -> None:
        self._wait_for(self._context.send_initial_metadata(metadata))

    def add_callback(self, callback: Callable[[], object]) -> bool:
        self._context.add_done_callback(lambda _: callback())
        return True

    def _wait_for(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()
