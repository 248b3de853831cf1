"""Spans and metrics of calls, as OpenTelemetry's semantic conventions for RPC name them (docs/rpc/grpc.md of version 1.45).

The SDK decides what is sampled, and the context of a call that is not sampled is propagated too, so that no other service begins
a trace of its own for it. Imports the API alone.
"""

import re
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import grpc
from opentelemetry import context, metrics, propagate, trace

SCHEMA = "https://opentelemetry.io/schemas/1.45.0"
_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]  # as the conventions advise
_NO_SERVER_ERROR = {code.name for code in grpc.StatusCode} - {
    "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
}  # fmt: skip
"""The codes that are the caller's mistake or wish; on a client, all but OK are errors."""
_ROOT = context.Context()
_BATCH = 64


def enabled() -> bool:
    """Whether something implements OpenTelemetry's API in this process, such as its SDK."""
    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    return not all(type(each).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics")) for each in providers)


class Started:
    """A call that is measured. metadata: the trace context to send with it."""

    __slots__ = ("attached", "context", "metadata", "method", "span", "time")

    def __init__(self, method: str, span: trace.Span, parent: context.Context) -> None:
        self.time = time.perf_counter()
        self.method = method
        self.span = span
        self.context = trace.set_span_in_context(span, parent)
        self.attached: Any = None
        self.metadata: tuple[tuple[str, str], ...] = ()


class _Calls:
    """What both sides have. fixed: attributes of all spans.   measured: attributes of all durations."""

    def __init__(self, side: str, successes: set[str], fixed: dict[str, Any], measured: dict[str, Any]) -> None:
        self._textmap = propagate.get_global_textmap()
        self._tracer = trace.get_tracer(__name__, schema_url=SCHEMA)
        self._meter = metrics.get_meter(__name__, schema_url=SCHEMA)
        self._durations = self._meter.create_histogram(
            f"rpc.{side}.call.duration", "s", "Duration of calls", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque()
        self._successes = successes
        self._fixed = {"rpc.system.name": "grpc"} | fixed
        self._measured = {"rpc.system.name": "grpc"} | measured
        self._by_method: dict[str, dict[str, Any]] = {}
        self._by_code: dict[tuple[str, str], dict[str, Any]] = {}

    def _attributes(self, method: str) -> dict[str, Any]:
        found = self._by_method.get(method)
        if found is None:
            found = self._by_method[method] = self._fixed | {"rpc.method": method}
        return found

    def _end(self, call: Started, code: str, error: BaseException | None) -> None:
        seconds = time.perf_counter() - call.time
        attributes = self._by_code.get((call.method, code))
        if attributes is None:
            failed = {} if code in self._successes else {"error.type": code}
            attributes = self._measured | {"rpc.method": call.method, "rpc.response.status_code": code} | failed
            self._by_code[call.method, code] = attributes
        if not call.span.is_recording():
            # In batches: between other work, each costs four times as much.
            self._waiting.append((seconds, attributes))
            if len(self._waiting) >= _BATCH:
                self._record()
            return
        self._durations.record(seconds, attributes, call.context)  # the span is the measurement's exemplar
        call.span.set_attribute("rpc.response.status_code", code)
        if "error.type" in attributes:
            call.span.set_attribute("error.type", code)
            if isinstance(error, grpc.RpcError):
                call.span.set_status(trace.StatusCode.ERROR, getattr(error, "details", str)() or None)
            else:
                call.span.set_status(trace.StatusCode.ERROR)
                if isinstance(error, Exception):
                    call.span.record_exception(error)
        call.span.end()

    def _record(self) -> None:
        while self._waiting:
            try:
                seconds, attributes = self._waiting.popleft()
            except IndexError:  # a collection, in its own thread, was faster
                return
            self._durations.record(seconds, attributes, _ROOT)

    def _counter(self, name: str, unit: str, description: str) -> Counter[tuple[tuple[str, str], ...]]:
        """A counter by attributes. It is read at each collection, and so what waits is recorded then."""
        counts: Counter[tuple[tuple[str, str], ...]] = Counter()

        def read(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            self._record()
            return [metrics.Observation(count, dict(attributes)) for attributes, count in counts.copy().items()]

        self._meter.create_observable_counter(name, [read], unit, description)
        return counts


class ServerTelemetry(_Calls):
    """Measures the calls of a server. address, port: where it listens."""

    def __init__(self, address: str = "", port: int = 0) -> None:
        address = socket.gethostname() if address in ("", "0.0.0.0", "::", "[::]") else address
        super().__init__("server", _NO_SERVER_ERROR, {"server.address": address} | ({"server.port": port} if port else {}), {})
        self._rejected = self._counter("calls.rejected", "{call}", "Calls rejected before their handler")
        # gRPC writes all names of metadata in lower case.
        self._fields = {field.lower(): field for field in self._textmap.fields}

    def start(self, method: str, call: Any) -> Started:
        """`method` as package.Service/Method; `call` is its context, a grpc.aio.ServicerContext. Pass the result to `end`, in the same task."""
        carrier: dict[str, list[str]] = {}
        for key, value in call.invocation_metadata() or ():
            if key in self._fields:
                carrier.setdefault(self._fields[key], []).append(value)
        parent = self._textmap.extract(carrier, _ROOT) if carrier else _ROOT
        span = self._tracer.start_span(method, parent, trace.SpanKind.SERVER, self._attributes(method))
        started = Started(method, span, parent)
        started.attached = context.attach(started.context)
        return started

    def end(self, call: Started, code: str, error: BaseException | None) -> None:
        """`code` is gRPC's name. error: what the handler raised without meaning a status."""
        if context.get_current() is call.context:  # not if the handler has attached another one and left it
            context.detach(call.attached)
        self._end(call, code, error)

    def rejected(self, method: str, code: str) -> None:
        """Count a call that was refused before its handler."""
        self._rejected[("rpc.method", method), ("rpc.response.status_code", code)] += 1


class ClientTelemetry(_Calls):
    """Measures the calls of a client, each with all of its attempts. target: the channel's."""

    def __init__(self, target: str) -> None:
        server = server_of(target)
        super().__init__("client", {"OK"}, server, server)
        self._attempts = self._counter(
            "grpc.client.attempt.started", "{attempt}", "Attempts started, retries included"
        )  # gRFC A66
        self._target = ("grpc.target", target)

    def start(self, method: str) -> Started:
        """`method` as package.Service/Method. Pass the result to `end`."""
        parent = context.get_current()
        started = Started(
            method, self._tracer.start_span(method, parent, trace.SpanKind.CLIENT, self._attributes(method)), parent
        )
        carrier: dict[str, str] = {}
        self._textmap.inject(carrier, started.context)
        started.metadata = tuple((key.lower(), value) for key, value in carrier.items())
        return started

    def end(self, call: Started, code: str, error: BaseException | None, attempts: int) -> None:
        """`code` is gRPC's name."""
        self._attempts[("grpc.method", call.method), self._target] += attempts
        self._end(call, code, error)


def server_of(target: str) -> dict[str, Any]:
    """server.address and server.port for a target URI: of its host where it names one, else the target itself."""
    found = re.fullmatch(r"(?:[a-z0-9+.-]+://[^/]*/)?(?:\[([^],]+)\]|([^/:,]+))(?::(\d+))?", target)
    if found is None:
        return {"server.address": target}
    return {"server.address": found[1] or found[2]} | ({"server.port": int(found[3])} if found[3] else {})
