"""Metrics and traces: settings in, gRPC interceptors out.

Without a collector, nothing of the OpenTelemetry SDK is imported, and no interceptor is installed.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc.aio

from .defaults import SERVICE
from .settings import Settings, SettingsError


@dataclass(frozen=True)
class Telemetry:
    """What measures a server's or a channel's calls; `shutdown` sends what is left and may take seconds."""

    client_interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    shutdown: Callable[[], None] = lambda: None


def configure(settings: Settings, role: str) -> Telemetry:
    """Set up metrics and traces, if OTEL_EXPORTER_OTLP_ENDPOINT or one of its variants is set. `role` is server or client.
    The SDK itself reads OpenTelemetry's variables."""
    if not any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_", "METRICS_")):
        return Telemetry()
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", f"{SERVICE}-{role}")
    os.environ.setdefault("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    os.environ.setdefault("OTEL_TRACES_SAMPLER_ARG", "0.1")
    try:
        import requests
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT needs {error.name}: install the extra 'otlp', or unset it") from None

    def session() -> requests.Session:
        """Without REQUESTS_CA_BUNDLE, which in requests takes precedence over a CA file that is set for the collector."""
        made = requests.Session()
        if any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}CERTIFICATE") for kind in ("", "TRACES_", "METRICS_")):
            made.proxies = requests.utils.get_environ_proxies(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
            made.trust_env = False
        return made

    # The resource from the environment takes precedence.
    resource = Resource({"service.instance.id": settings.server.name}).merge(Resource.create())
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(session=session()))], resource)
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=session())))
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown(timeout_millis=5000)

    return Telemetry(shutdown=shutdown)
