"""Spans and metrics of calls, by OpenTelemetry's semantic conventions for gRPC (version 1.45, docs/rpc/grpc.md).

Needs OpenTelemetry's API alone. The SDK's sampler decides. The context of a call that is not sampled is propagated too, or the services
that are called would begin traces of their own.
"""

import contextlib
import functools
import re
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from opentelemetry import context, metrics, trace

_SCHEMA = "https://opentelemetry.io/schemas/1.45.0"
_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]  # as the conventions advise
_SERVER_ERRORS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
_CLIENT_ERRORS = tuple(code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK)
_ROOT = context.Context()
_NO_SPAN = trace.set_span_in_context(trace.INVALID_SPAN, _ROOT)
_BATCH = 64
"""What is done so many times in a row costs a third of what it costs between other work."""


def enabled() -> bool:
    """Whether this process has an implementation of OpenTelemetry's API, such as its SDK."""
    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    return not all(type(each).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics")) for each in providers)


class Started:
    """A call in progress. metadata: its trace context, to be sent with it."""

    __slots__ = ("context", "metadata", "method", "recorded", "span", "time")

    def __init__(self, method: str, span: trace.Span, parent: context.Context) -> None:
        self.method, self.span, self.recorded = method, span, span.is_recording()
        self.context = trace.set_span_in_context(span, parent)
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.time = 0.0


class _Metrics:
    """A side's histogram of durations, and a counter by attributes."""

    def __init__(self, side: str, counter: str, unit: str, description: str) -> None:
        meter = metrics.get_meter(__name__, schema_url=_SCHEMA)
        name = f"rpc.{side}.call.duration"
        self.durations = meter.create_histogram(name, "s", "Duration of calls", explicit_bucket_boundaries_advisory=_BUCKETS)
        self.counts: Counter[tuple[tuple[str, str], ...]] = Counter()
        self.waiting: deque[tuple[float, dict[str, Any]]] = deque()
        meter.create_observable_counter(counter, [self._collect], unit, description)

    def record(self) -> None:
        """Record what is waiting, which is done before each collection, too."""
        try:
            while True:
                self.durations.record(*self.waiting.popleft(), _NO_SPAN)
        except IndexError:
            pass  # the other thread, of the collection or of the calls, has recorded the last one

    def _collect(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        self.record()
        return [metrics.Observation(count, dict(attributes)) for attributes, count in self.counts.copy().items()]


_metrics = functools.cache(_Metrics)  # of two counters with one name, the SDK reads the first


class _Calls:
    _metrics: _Metrics

    def __init__(self, kind: trace.SpanKind, errors: tuple[str, ...], spans: dict[str, Any], durations: dict[str, Any]) -> None:
        """spans, durations: their attributes."""
        from opentelemetry import propagate  # which reads OTEL_PROPAGATORS and may raise ValueError

        self._textmap = propagate.get_global_textmap()
        self._tracer = trace.get_tracer(__name__, schema_url=_SCHEMA)
        self._kind, self._errors = kind, errors
        self._spans, self._durations = ({"rpc.system.name": "grpc", **attributes} for attributes in (spans, durations))
        self._ended: dict[tuple[str, str], dict[str, Any]] = {}
        self._ahead: defaultdict[str, list[Started]] = defaultdict(list)

    def _fill(self, method: str) -> list[Started]:
        """Roots of traces, started ahead, as far as they are not sampled. The first that is sampled is for the call that begins now."""
        ahead = self._ahead[method]
        for _ in range(_BATCH):
            ahead.append(self._started(method, _ROOT))
            if ahead[-1].recorded:
                break
        return ahead

    def _started(self, method: str, parent: context.Context) -> Started:
        span = self._tracer.start_span(method, parent, self._kind, {**self._spans, "rpc.method": method})
        return Started(method, span, parent)

    def _end(self, call: Started, code: str, error: BaseException | None) -> None:
        """`code` is gRPC's name. error: what has been raised."""
        seconds = time.perf_counter() - call.time
        attributes = self._ended.get((call.method, code)) or self._attributes(call.method, code)
        if call.recorded:
            self._metrics.durations.record(seconds, attributes, call.context)  # with the span as exemplar
            return self._end_span(call.span, attributes, error)
        waiting = self._metrics.waiting
        waiting.append((seconds, attributes))
        if len(waiting) >= _BATCH:
            self._metrics.record()

    def _attributes(self, method: str, code: str) -> dict[str, Any]:
        failed = {"error.type": code} if code in self._errors else {}
        found = {**self._durations, "rpc.method": method, "rpc.response.status_code": code, **failed}
        return self._ended.setdefault((method, code), found)

    def _end_span(self, span: trace.Span, attributes: dict[str, Any], error: BaseException | None) -> None:
        span.set_attribute("rpc.response.status_code", attributes["rpc.response.status_code"])
        if "error.type" in attributes:
            span.set_attribute("error.type", attributes["error.type"])
            span.set_status(trace.StatusCode.ERROR, error.details() if isinstance(error, grpc.aio.AioRpcError) else None)
            if isinstance(error, Exception) and not isinstance(error, grpc.RpcError):
                with contextlib.suppress(Exception):  # whose text cannot be formatted; the call has its status all the same
                    span.record_exception(error)
        span.end()


class ServerTelemetry(_Calls):
    """Measures a server's calls. host, port: where it listens."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        address = socket.gethostname() if host in ("", "0.0.0.0", "::", "[::]") else host
        server = {"server.address": address, **({"server.port": port} if port else {})}
        super().__init__(trace.SpanKind.SERVER, _SERVER_ERRORS, server, {})
        self._metrics = _metrics("server", "calls.rejected", "{call}", "Calls rejected before their handler")
        self._fields = {field.lower(): field for field in self._textmap.fields}  # names of metadata are in lower case

    def start(self, method: str, received: Any) -> Started:
        """`method` as package.Service/Method; `received` is the call's grpc.aio.ServicerContext. Call it in the task that gRPC has
        created for the call, and pass the result to `end`."""
        carrier: dict[str, list[str]] = {}
        for key, value in received.invocation_metadata() or ():
            if key in self._fields:
                carrier.setdefault(self._fields[key], []).append(value)
        if carrier:
            call = self._started(method, self._textmap.extract(carrier, _ROOT))
        else:
            call = (self._ahead[method] or self._fill(method)).pop()
        context.attach(call.context)  # not detached: the context of this task ends with the call
        call.time = time.perf_counter()
        return call

    end = _Calls._end

    def rejected(self, method: str, code: str) -> None:
        """Count a call that was rejected before its handler."""
        self._metrics.counts[("rpc.method", method), ("rpc.response.status_code", code)] += 1


class ClientTelemetry(_Calls):
    """Measures the calls of a channel on `target`, each with all of its attempts."""

    def __init__(self, target: str) -> None:
        server = server_of(target)
        super().__init__(trace.SpanKind.CLIENT, _CLIENT_ERRORS, server, server)
        self._metrics = _metrics("client", "grpc.client.attempt.started", "{attempt}", "Attempts, with retries")  # gRFC A66
        self._target = ("grpc.target", target)

    def _started(self, method: str, parent: context.Context) -> Started:
        call = super()._started(method, parent)
        carrier: dict[str, str] = {}
        self._textmap.inject(carrier, call.context)
        call.metadata = tuple((key.lower(), value) for key, value in carrier.items())
        return call

    def start(self, method: str) -> Started:
        """`method` as package.Service/Method. Pass the result to `end`."""
        parent = context.get_current()
        call = self._started(method, parent) if parent else (self._ahead[method] or self._fill(method)).pop()
        call.time = time.perf_counter()
        return call

    def end(self, call: Started, code: str, error: BaseException | None, attempts: int) -> None:
        """`code` is gRPC's name. error: what the caller gets."""
        self._metrics.counts[("grpc.method", call.method), self._target] += attempts
        self._end(call, code, error)


def server_of(target: str) -> dict[str, Any]:
    """server.address and server.port: the host in a target with one, else the target itself."""
    found = re.fullmatch(r"(?:[a-z0-9+.-]+://[^/]*/)?(?:\[([^],]+)\]|([^/:,]+))(?::(\d+))?", target)
    if found is None:
        return {"server.address": target}
    return {"server.address": found[1] or found[2], **({"server.port": int(found[3])} if found[3] else {})}
