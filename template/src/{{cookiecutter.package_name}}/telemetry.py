"""Logs, metrics and traces: settings in, a running set-up and gRPC interceptors out.

Without an OTLP endpoint nothing of the OpenTelemetry SDK is imported and no interceptor is installed.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
from pythonjsonlogger.json import JsonFormatter

from .settings import Log, Settings


@dataclass(frozen=True)
class Telemetry:
    """What a server or a channel is given, and what ends it all; `shutdown` sends what is left and may take seconds."""

    on: Callable[[grpc.aio.Server], Any] = lambda server: server
    """What servicers are added to: the server, or something that measures their calls and hands them to it."""
    client_interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    shutdown: Callable[[], None] = lambda: None


def configure_logs(settings: Log) -> None:
    """Log to standard output, as lines for people or as JSON; inside a trace with its ids."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_with_trace)
    if settings.format == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)


def _with_trace(record: logging.LogRecord) -> bool:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = f"{context.trace_id:032x}"
            record.span_id = f"{context.span_id:016x}"
    return True


def configure(settings: Settings, role: str) -> Telemetry:
    """Set up logs, and metrics and traces where they are wanted. `role` is server or client."""
    configure_logs(settings.log)
    endpoint = settings.telemetry.otlp_endpoint
    if endpoint is None:
        return Telemetry()
    try:
        import requests
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation import grpc as traced
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ModuleNotFoundError as error:
        print(
            f"settings: TELEMETRY__OTLP_ENDPOINT={endpoint} needs {error.name}, which is not installed: install the extra 'otlp', or set it to none",
            file=sys.stderr,
        )
        raise SystemExit(2) from None

    from .calls.telemetry import ClientMetrics, ServerCalls

    secret = settings.telemetry.otlp_headers
    headers = dict(pair.split("=", 1) for pair in secret.get_secret_value().split(",")) if secret else None
    base = endpoint.rstrip("/")
    # Read anew for every connection, so that renewed files are taken up.
    tls: dict[str, Any] = {
        "certificate_file": settings.telemetry.otlp_ca or None,
        "client_certificate_file": settings.telemetry.otlp_certificate or None,
        "client_key_file": settings.telemetry.otlp_key or None,
    }

    def session() -> Any:
        """With an authority in the settings, REQUESTS_CA_BUNDLE must not win over it, as it does in requests by itself."""
        made = requests.Session()
        if settings.telemetry.otlp_ca:
            made.trust_env = False
            made.proxies = requests.utils.get_environ_proxies(base)
        return made

    resource = Resource.create(
        {"service.name": f"{settings.telemetry.service_name}-{role}", "service.instance.id": settings.server.name}
    )
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{base}/v1/metrics", headers=headers, session=session(), **tls),
        export_interval_millis=settings.telemetry.interval * 1000,
    )
    meters = MeterProvider([reader], resource)
    # The server has decided before it begins a span, so that a call that is not recorded costs next to nothing.
    sampler = ParentBasedTraceIdRatio(1.0 if role == "server" else settings.telemetry.sample_ratio)
    tracers = TracerProvider(sampler, resource)
    tracers.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces", headers=headers, session=session(), **tls))
    )
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown(timeout_millis=5000)

    # The package has no types of its own.
    trace_client: Any = traced.aio_client_interceptors
    client: list[Any] = [*trace_client(), *ClientMetrics.all()]
    return Telemetry(ServerCalls(settings.telemetry.sample_ratio).on, client, shutdown)
