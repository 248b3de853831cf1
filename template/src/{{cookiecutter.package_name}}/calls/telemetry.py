"""Metrics of every call, named by OpenTelemetry's semantic conventions for RPC, and spans of the server's calls.

The server's handlers are wrapped once, when they are registered: an interceptor costs a fifth of a small call (method_handlers.py), and
the instrumentation package's another fifth, for calls that are mostly not sampled.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from opentelemetry import metrics, propagate, trace

from .method_handlers import Layer, behavior_of, rebuilt

Context = Any
"""grpc.aio.ServicerContext of any messages."""

_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]  # as the conventions advise
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_UNTRACED = contextlib.nullcontext()


def _histogram(side: str) -> metrics.Histogram:
    return metrics.get_meter("rpc").create_histogram(
        f"rpc.{side}.call.duration", unit="s", description="Duration of calls", explicit_bucket_boundaries_advisory=_BUCKETS
    )


def _attributes(method: str, code: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code}


class ServerCalls(Layer):
    """Times and traces the calls of the handlers that are registered through `on`.

    sample_ratio: the share of calls that begin a trace of their own. A call that carries a trace is part of it, and its caller has
    decided whether it is recorded.
    """

    def __init__(self, sample_ratio: float) -> None:
        self._durations = _Durations(_histogram("server"))
        self._tracer = trace.get_tracer("rpc")
        self._sample_ratio = sample_ratio
        self._fields = propagate.get_global_textmap().fields

    def around(self, method: str, handler: Any) -> Any:
        """The handler, measured."""
        behavior = behavior_of(handler)

        async def streamed(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._measured(method, context):
                async for answer in behavior(request, context):
                    yield answer

        async def answered(request: Any, context: Context) -> Any:
            with self._measured(method, context):
                return await behavior(request, context)

        return handler if handler.request_streaming else rebuilt(handler, streamed if handler.response_streaming else answered)

    @contextlib.contextmanager
    def _measured(self, method: str, context: Context) -> Iterator[None]:
        started, failed = time.perf_counter(), True
        try:
            with self._span(method, context):
                yield
            failed = False
        finally:
            self._record(method, context, started, failed)

    def _span(self, method: str, context: Context) -> contextlib.AbstractContextManager[Any]:
        carried = {key: value for key, value in context.invocation_metadata() or () if key in self._fields}
        if not carried and random.random() >= self._sample_ratio:
            return _UNTRACED
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        return self._tracer.start_as_current_span(method, propagate.extract(carried), trace.SpanKind.SERVER, attributes)

    def _record(self, method: str, context: Context, started: float, failed: bool) -> None:
        code = context.code()
        number = code.value[0] if isinstance(code, grpc.StatusCode) else code
        name = _NAMES.get(number, "UNKNOWN") if number else "UNKNOWN" if failed else "OK"
        self._durations.add(time.perf_counter() - started, method, name)


class _Durations:
    """Records durations in a histogram in batches: one by one, between calls, each costs four times as much."""

    MOST, LATEST = 64, 0.2
    """The maximum number in a batch, and the seconds until it is recorded."""

    def __init__(self, histogram: metrics.Histogram) -> None:
        self._histogram = histogram
        self._kept: list[tuple[float, str, str]] = []

    def add(self, seconds: float, method: str, code: str) -> None:
        if not self._kept:
            asyncio.get_running_loop().call_later(self.LATEST, self._hand_over)
        self._kept.append((seconds, method, code))
        if len(self._kept) >= self.MOST:
            self._hand_over()

    def _hand_over(self) -> None:
        kept, self._kept = self._kept, []
        for seconds, method, code in kept:
            self._histogram.record(seconds, _attributes(method, code))


class ClientMetrics:
    """Times the calls of a channel; `all` returns one interceptor for each kind of call, as gRPC requires."""

    @staticmethod
    def all() -> list[grpc.aio.ClientInterceptor]:
        histogram = _histogram("client")
        return [_ClientUnary(histogram), _ClientStream(histogram)]


class _Timed:
    def __init__(self, histogram: metrics.Histogram) -> None:
        self._histogram = histogram
        self._tasks: set[asyncio.Task[None]] = set()

    async def intercept(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        started = time.perf_counter()
        call = await continuation(details, request)
        method = details.method if isinstance(details.method, str) else details.method.decode()
        loop = asyncio.get_running_loop()

        def done(ended: Any) -> None:
            elapsed = time.perf_counter() - started
            # The code is known by now, but only a coroutine returns it.
            task = loop.create_task(self._record(ended, method, elapsed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        call.add_done_callback(done)
        return call

    async def _record(self, call: Any, method: str, elapsed: float) -> None:
        self._histogram.record(elapsed, _attributes(method.removeprefix("/"), (await call.code()).name))


class _ClientUnary(_Timed, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _Timed.intercept


class _ClientStream(_Timed, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _Timed.intercept
