"""What surrounds every call: one wrapper around each handler, added when generated code registers it.

From the outside in: authorization, the concurrency limit, telemetry, the error guard. gRPC's interceptors are outside of all these;
another one in the wrapper's place would cost a fifth of a small call.
"""

import asyncio
import contextlib
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from .authorization import Authorization
from .concurrency_limit import ConcurrencyLimit
from .context import CallContext, Method, RejectedError
from .serving import current
from .telemetry import ServerTelemetry
from .threads import on_threads

logger = logging.getLogger(__name__)

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Wraps the handlers of the services that are registered through `on`. For one event loop.

    name: sent as the metadata `x-served-by`; empty sends none.   limit, stream_limit: for calls with one response and for response
    streams; without the second, the first is for both.   drain: set when the server drains.   rejected: by reason, until they are logged.
    """

    name: str = ""
    authorization: Authorization | None = None
    limit: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    stream_limit: ConcurrencyLimit | None = None
    telemetry: ServerTelemetry | None = None
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: Counter[str] = field(default_factory=Counter)

    def on(self, server: Any) -> Any:
        """Pass the result to a generated `add_..._to_server` in place of the server."""
        return _Registrations(server, self._around)

    def _around(self, path: str, handler: Any) -> Any:
        """The wrapped handler. It takes a stream of bytes, whatever `handler` takes, so that a call is rejected before its message is
        read."""
        authorization, telemetry = self.authorization, self.telemetry
        limit = self.stream_limit if handler.response_streaming and self.stream_limit is not None else self.limit
        method = Method(handler, limit, self.name, self.drain)
        behavior, serialize = _behavior(handler), _none if handler.response_streaming else method.serialize

        async def call(_: object, received: Any) -> bytes:
            if authorization is not None and (reason := authorization.denied(path, received)):
                return await self._reject(path, received, RejectedError(grpc.StatusCode.PERMISSION_DENIED, reason))
            if reason := limit.enter():
                return await self._reject(path, received, RejectedError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason))
            started, ended = None, False
            context = CallContext(received, method)
            current.set(context)
            try:
                if telemetry is not None:
                    started = telemetry.start(path, received)
                request = context.requests() if handler.request_streaming else await context.request()
                response = await behavior(request, context)
                ended = True
                # With a status other than OK, gRPC sends no response.
                return b"" if _status(received) else serialize(response)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except RejectedError as error:
                return await self._reject(path, received, error)
            except BaseException as error:
                return await _guard(path, context, error)
            finally:
                context.over = True
                limit.leave()
                if telemetry is not None and started is not None:
                    telemetry.end(started, _code(context, ended), context.error)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(call)
        return grpc.stream_unary_rpc_method_handler(call)

    async def _reject(self, path: str, context: Any, error: RejectedError) -> bytes:
        if self.telemetry is not None:
            self.telemetry.rejected(path, error.code.name)
        if not self.rejected:
            asyncio.get_running_loop().call_later(1.0, self._report)
        self.rejected[f"{path}: {error}"] += 1
        return await context.abort(error.code, str(error))  # type: ignore[no-any-return]

    def _report(self) -> None:
        reasons = (f"{count} x {reason}" for reason, count in self.rejected.most_common(5))
        logger.warning("calls rejected within a second: %d: %s", self.rejected.total(), "; ".join(reasons))
        self.rejected.clear()


async def _guard(path: str, context: CallContext, error: BaseException) -> bytes:
    """The error guard: what a handler raises, other than by `context.abort`, is logged, and the caller gets INTERNAL without its text."""
    if isinstance(error, grpc.aio.AbortError) and context.done():
        raise error
    if context.left and isinstance(error, grpc.aio.InternalError):
        # The client has left. gRPC itself would log an error where the failed write comes before its notice of that.
        raise asyncio.CancelledError from None
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error  # not so if something else was canceled, for which the handler waited: gRPC would leave the caller without a status
    context.error = error
    logger.error("%s failed", path, exc_info=error)
    if context.done():
        return b""  # the status has been sent, by an abort whose exception the handler has replaced
    code = context.code() if _status(context) else grpc.StatusCode.INTERNAL
    return await context.abort(code, context.details() or "internal error")  # type: ignore[no-any-return]


def _behavior(handler: Any) -> Callable[[Any, CallContext], Awaitable[Any]]:
    """The handler, whatever its style, as a coroutine function that writes the responses of a stream."""
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if inspect.iscoroutinefunction(function):
        return function  # type: ignore[no-any-return]
    if not inspect.isasyncgenfunction(function):
        function = on_threads(function, handler)
        if not handler.response_streaming:
            return function

    async def several(request: Any, context: CallContext) -> None:
        # Closed here, in the call's own task: a collected generator would be closed in another context.
        async with contextlib.aclosing(function(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return several


def _none(_: object) -> bytes:
    return b""


def _status(context: Any) -> int:
    """The number of the status that a handler has set; 0, which is OK, if it has not."""
    code = context.code()
    return 0 if code is None else int(code.value[0] if isinstance(code, grpc.StatusCode) else code)


def _code(context: CallContext, ended: bool) -> str:
    """The name of a call's status, by what gRPC sends."""
    if ended or context.done():
        return _NAMES.get(_status(context), "UNKNOWN")
    return "DEADLINE_EXCEEDED" if context.expired() else "CANCELLED"


class _Registrations:
    def __init__(self, server: Any, around: Callable[[str, Any], Any]) -> None:
        self._server = server
        self._around = around

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_Inside(handler, self._around) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """gRPC's second way to look a method up, which it tries first."""
        wrapped = {name: self._around(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)


class _Inside(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler, around: Callable[[str, Any], Any]) -> None:
        self._handler = handler
        self._around = around
        self._wrapped: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        path: str = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is None and (handler := self._handler.service(handler_call_details)) is not None:
            wrapped = self._wrapped[path] = self._around(path.removeprefix("/"), handler)
        return wrapped
