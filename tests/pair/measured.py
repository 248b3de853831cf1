"""Telemetry of a server in this process, by the real SDK, without touching the process's own providers."""

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from greeter.discovery.calls import telemetry


@dataclass
class Measured:
    """What is measured of the calls of servers with `telemetry`."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        tracers, meters = TracerProvider(), MeterProvider([self.reader])
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        with (
            mock.patch.object(trace, "get_tracer_provider", return_value=tracers),
            mock.patch.object(metrics._internal, "get_meter_provider", return_value=meters),
        ):
            telemetry._metrics.cache_clear()  # those of other providers
            self.telemetry = telemetry.ServerTelemetry()
            telemetry._metrics.cache_clear()

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the count of each point of a metric, until now."""
        read = self.reader.get_metrics_data()
        found: list[Any] = [] if read is None else [scope for each in read.resource_metrics for scope in each.scope_metrics]
        points = [
            point for scope in found for metric in scope.metrics if metric.name == name for point in metric.data.data_points
        ]
        return [(dict(point.attributes), getattr(point, "count", 0) or getattr(point, "value", 0)) for point in points]
