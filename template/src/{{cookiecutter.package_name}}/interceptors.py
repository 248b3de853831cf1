"""Metrics of every call, with the names of OpenTelemetry's semantic conventions for RPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from opentelemetry import metrics

Context = Any
"""grpc.aio.ServicerContext, whose type stub wants the messages' types; an interceptor sees all of them."""

_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]  # as the conventions advise
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _histogram(side: str) -> metrics.Histogram:
    return metrics.get_meter("rpc").create_histogram(
        f"rpc.{side}.call.duration", unit="s", description="Duration of calls", explicit_bucket_boundaries_advisory=_BUCKETS
    )


def _attributes(method: str, code: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method.removeprefix("/"), "rpc.response.status_code": code}


class ServerMetrics(grpc.aio.ServerInterceptor):
    """Times the calls of a server. A handler is wrapped once and kept, so that a call costs two clock readings."""

    def __init__(self) -> None:
        self._histogram = _histogram("server")
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: Any) -> Any:
        def record(context: Context, started: float, failed: bool) -> None:
            code = context.code()
            number = code.value[0] if isinstance(code, grpc.StatusCode) else code
            name = _NAMES.get(number, "UNKNOWN") if number else "UNKNOWN" if failed else "OK"
            self._histogram.record(time.perf_counter() - started, _attributes(method, name))

        if handler.response_streaming:
            answers = handler.unary_stream

            async def streamed(request: Any, context: Context) -> AsyncIterator[Any]:
                started, failed = time.perf_counter(), True
                try:
                    async for answer in answers(request, context):
                        yield answer
                    failed = False
                finally:
                    record(context, started, failed)

            return grpc.unary_stream_rpc_method_handler(streamed, handler.request_deserializer, handler.response_serializer)

        answer_one = handler.unary_unary

        async def answered(request: Any, context: Context) -> Any:
            started, failed = time.perf_counter(), True
            try:
                answer = await answer_one(request, context)
                failed = False
                return answer
            finally:
                record(context, started, failed)

        return grpc.unary_unary_rpc_method_handler(answered, handler.request_deserializer, handler.response_serializer)


class ClientMetrics:
    """Times the calls of a channel; `all` gives one interceptor a kind of call, as gRPC wants it."""

    @staticmethod
    def all() -> list[grpc.aio.ClientInterceptor]:
        histogram = _histogram("client")
        return [_ClientUnary(histogram), _ClientStream(histogram)]


class _Timed:
    def __init__(self, histogram: metrics.Histogram) -> None:
        self._histogram = histogram
        self._tasks: set[asyncio.Task[None]] = set()

    def _observe(self, call: Any, details: grpc.aio.ClientCallDetails, started: float) -> None:
        method = details.method if isinstance(details.method, str) else details.method.decode()
        loop = asyncio.get_running_loop()

        def done(ended: Any) -> None:
            elapsed = time.perf_counter() - started
            # The code is there already, but only a coroutine hands it out.
            task = loop.create_task(self._record(ended, method, elapsed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        call.add_done_callback(done)

    async def _record(self, call: Any, method: str, elapsed: float) -> None:
        self._histogram.record(elapsed, _attributes(method, (await call.code()).name))


class _ClientUnary(_Timed, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        started = time.perf_counter()
        call = await continuation(details, request)
        self._observe(call, details, started)
        return call


class _ClientStream(_Timed, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        started = time.perf_counter()
        call = await continuation(details, request)
        self._observe(call, details, started)
        return call
