"""What a handler gets as its context: grpc.aio's own, which reads and writes messages inside of the wrapper (handler.py)."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from .concurrency_limit import SMALL, ConcurrencyLimit
from .served_by import KEY

OF_A_CALL_IN_PROGRESS = frozenset({"auth_context", "invocation_metadata", "peer", "peer_identities", "peer_identity_key"})
"""What a task or thread that outlives its call must not ask for: gRPC would read memory that it has freed."""


class RejectedError(Exception):
    """A call that ends with this status and text, which are logged once a second."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Method:
    """What all calls of a method share. name: the server's.   drain: set when the server drains."""

    def __init__(self, handler: Any, limit: ConcurrencyLimit, name: str, drain: asyncio.Event) -> None:
        self.limit = limit
        self.drain = drain
        # Metadata is ASCII (gRPC over HTTP/2); a setting may be anything.
        self.named = ((KEY, name.encode("ascii", "replace").decode()),) if name else ()
        self.streams = handler.response_streaming
        self.names_first = bool(self.named) and self.streams
        self.parse = handler.request_deserializer or _same
        self.serialize = handler.response_serializer or _same


class CallContext:
    """A call's context. error: what the handler has raised, if anything.   left: whether a response could not be sent.
    over: whether the handler has ended.

    The server's name is in the trailing metadata of every call, whoever sets it, and in the initial metadata of a response stream.
    """

    error: BaseException | None = None
    left = over = False
    _sent = False
    _held: int | None = None

    def __init__(self, context: Any, method: Method) -> None:
        self._context = context
        self.method = method
        self._timeout = context.time_remaining()
        self._begun = time.monotonic()
        if method.named:
            context.set_trailing_metadata(method.named)

    def __getattr__(self, name: str) -> Any:
        if self.over and name in OF_A_CALL_IN_PROGRESS:
            raise grpc.aio.UsageError(f"the call has ended: its context has no {name} any more")
        return getattr(self._context, name)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline. gRPC's own goes by the wall clock, which may be set."""
        return None if self._timeout is None else max(0.0, self._timeout + self._begun - time.monotonic())

    def expired(self) -> bool:
        """Whether the deadline has passed. The client ends a call by its own clock; gRPC rounds the timeout that it sends up to three digits."""
        left = self.time_remaining()
        return left is not None and left <= 0.01 + 0.01 * self._timeout

    async def request(self) -> Any:
        """The one request of a call that is not a request stream."""
        limit = self.method.limit
        generation = limit.begin() or await limit.turn()
        try:
            raw = await self._context.read()
            if len(raw) > SMALL:
                await self._hold(len(raw))
        finally:
            limit.received(generation)
        if raw is grpc.aio.EOF:
            raise RejectedError(grpc.StatusCode.UNIMPLEMENTED, "the call has no request")  # as gRPC's status codes say
        return self._parsed(raw)

    async def requests(self) -> AsyncIterator[Any]:
        """The requests of a stream."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def read(self) -> Any:
        """The next request of a stream, or grpc.aio.EOF. Until then, the one before counts as bytes in flight."""
        self.release()
        raw = await self._context.read()
        if len(raw) > SMALL:
            await self._hold(len(raw))
        return raw if raw is grpc.aio.EOF else self._parsed(raw)

    async def write(self, message: Any) -> None:
        """Send a response of a stream."""
        if not self.method.streams:
            raise grpc.aio.UsageError("a method with one response returns it")  # a second one would leave the caller waiting
        if self.method.names_first and not self._sent:
            await self.send_initial_metadata(())
        serialized = self.method.serialize(message)
        try:
            await self._context.write(serialized)
        except grpc.aio.InternalError:
            self.left = True
            raise

    async def send_initial_metadata(self, metadata: Any) -> None:
        self._sent = True
        await self._context.send_initial_metadata((*self.method.named, *metadata))

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._context.set_trailing_metadata((*self.method.named, *metadata))

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> Any:
        if trailing_metadata:
            trailing_metadata = (*self.method.named, *trailing_metadata)
        await self._context.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> None:
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def release(self, _: object = None) -> None:
        """The last request that was read is in flight no more."""
        if self._held:
            self.method.limit.release(self._held)
            self._held = 0

    async def _hold(self, size: int) -> None:
        if reason := await self.method.limit.hold(size):
            raise RejectedError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        if self._held is None:
            self._context.add_done_callback(self.release)  # by then the response has been sent, which may be as large
        self._held = size

    def _parsed(self, raw: bytes) -> Any:
        try:
            return self.method.parse(raw)
        except Exception as error:
            reason = f"a request of {len(raw)} bytes is not a message of the method's type: {type(error).__name__}"
            raise RejectedError(grpc.StatusCode.INTERNAL, reason) from None


def _same(message: Any) -> Any:
    return message
