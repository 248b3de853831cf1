"""Handlers that are wrapped once, when generated code registers them: an interceptor of grpc.aio costs a fifth of a small call."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

Wrap = Callable[[str, Any], Any]
"""A method's full name, without the first slash, and its handler in; the handler to use instead out."""


class Wrapping:
    """What a generated `add_..._to_server` is given in the place of the server, or of another of these, which then wraps outside."""

    def __init__(self, server: Any, wrap: Wrap) -> None:
        self._server = server
        self._wrap = wrap

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_Wrapped(handler, self._wrap) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """gRPC's second way to look a method up; it would go past the wrapping, and grpc.aio does not use it."""


class _Wrapped(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler, wrap: Wrap) -> None:
        self._handler = handler
        self._wrap = wrap
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method
        known = self._known.get(method)
        if known is None:
            handler = self._handler.service(handler_call_details)
            if handler is None:
                return None
            known = self._known[method] = self._wrap(method.removeprefix("/"), handler)
        return known


def behavior_of(handler: Any) -> Callable[..., Any]:
    """The one function of a handler's four that is there."""
    found: Callable[..., Any] = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return found


def rebuilt(handler: Any, behavior: Callable[..., Any]) -> Any:
    """A handler of the same kind that does something else."""
    make: Any = _MAKERS[handler.request_streaming, handler.response_streaming]
    return make(behavior, handler.request_deserializer, handler.response_serializer)


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
