"""Layers around method handlers, added once, when generated code registers them: an interceptor of grpc.aio costs a fifth of a small
call."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc


class Layer:
    """What happens before and after every call of the services that are registered through `on`."""

    async def enter(self, method: str, context: Any) -> Any:
        """Before the handler, which gets the context that this returns; may abort. `method`: full name, without the first slash."""
        return context

    async def answer(self, context: Any) -> None:
        """Before each answer of a stream."""

    async def leave(self, context: Any) -> None:
        """After the handler, however it ended; `context` is what `enter` returned."""

    def enter_thread(self, method: str, context: Any) -> None:
        """Before a handler that is not async, which gRPC runs on a thread; may abort."""

    def on(self, server: Any) -> Any:
        """Pass the result to a generated `add_..._to_server` in place of the server. `server` may be the result of another layer,
        which is then outside of this one."""
        return _Registrations(server, self.around)

    def around(self, method: str, handler: Any) -> Any:
        """A handler of the same kind inside this layer."""
        behavior = behavior_of(handler)

        async def one(request: Any, context: Any) -> Any:
            entered = await self.enter(method, context)
            try:
                return await behavior(request, entered)
            finally:
                await self.leave(entered)

        async def several(request: Any, context: Any) -> AsyncIterator[Any]:
            entered = await self.enter(method, context)
            try:
                async for answer in behavior(request, entered):
                    await self.answer(entered)
                    yield answer
            finally:
                await self.leave(entered)

        def blocking(request: Any, context: Any) -> Any:
            self.enter_thread(method, context)
            return behavior(request, context)

        def blocking_several(request: Any, context: Any) -> Iterator[Any]:
            # A generator, because gRPC calls this on the event loop, where a thread's context would wait forever.
            self.enter_thread(method, context)
            yield from behavior(request, context)

        if inspect.isasyncgenfunction(behavior):
            return rebuilt(handler, several)
        if inspect.iscoroutinefunction(behavior):
            return rebuilt(handler, one)
        return rebuilt(handler, blocking_several if handler.response_streaming else blocking)


class _Registrations:
    def __init__(self, server: Any, around: Callable[[str, Any], Any]) -> None:
        self._server = server
        self._around = around

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_Inside(handler, self._around) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """gRPC's second way to look a method up; it would bypass the layers, and grpc.aio does not use it."""


class _Inside(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler, around: Callable[[str, Any], Any]) -> None:
        self._handler = handler
        self._around = around
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method
        known = self._known.get(method)
        if known is None:
            handler = self._handler.service(handler_call_details)
            if handler is None:
                return None
            known = self._known[method] = self._around(method.removeprefix("/"), handler)
        return known


def behavior_of(handler: Any) -> Callable[..., Any]:
    """The one of a handler's four functions that is set."""
    found: Callable[..., Any] = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return found


def rebuilt(handler: Any, behavior: Callable[..., Any]) -> Any:
    """A handler of the same kind with another function."""
    make: Any = _MAKERS[handler.request_streaming, handler.response_streaming]
    return make(behavior, handler.request_deserializer, handler.response_serializer)


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
