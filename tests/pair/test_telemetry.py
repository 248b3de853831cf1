"""Telemetry: nothing where nothing is wanted, everything where it is."""

import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509 import IPAddress
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .authority import Authority, Secret
from .calls import greet
from .processes import DEADLINE, load_generator, servers
from .project import PROJECT


class Collector:
    """A real OTLP/HTTP endpoint that keeps what it is sent."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.received = threading.Condition()
        self.metrics: dict[str, list[dict[str, str]]] = {}
        self.spans: set[str] = set()
        self.headers: set[str] = set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["content-length"])), self.headers.get("token", ""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes, token: str) -> None:
        with self.received:
            self.headers.add(token)
            if path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                        points: list[Any] = [*metric.histogram.data_points, *metric.sum.data_points, *metric.gauge.data_points]
                        found = [{pair.key: pair.value.string_value for pair in point.attributes} for point in points]
                        self.metrics.setdefault(metric.name, []).extend(found)
            else:
                for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.spans |= {span.name for scope in resource_spans.scope_spans for span in scope.spans}
            self.received.notify_all()

    def wait_for(self, *metrics: str) -> None:
        with self.received:
            assert self.received.wait_for(lambda: set(metrics) <= self.metrics.keys(), DEADLINE), sorted(self.metrics)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_metrics_and_traces_of_both_sides_reach_a_collector_by_their_standard_names(collector: Collector) -> None:
    """With the attributes of the semantic conventions; discovery's own metrics among them; the header is sent and not logged."""
    wanted = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "300", "OTEL_TRACES_SAMPLER_ARG": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "300", "OTEL_EXPORTER_OTLP_HEADERS": "token=hidden", "LOG__FORMAT": "json",
    }  # fmt: skip
    with servers("a", **wanted) as running:
        with load_generator(running["a"][1], **wanted) as client:
            collector.wait_for(
                "rpc.server.call.duration", "rpc.client.call.duration", "discovery.endpoints", "discovery.propagation.duration"
            )
            with collector.received:
                assert collector.received.wait_for(
                    lambda: "greeter.v1.GreeterService/Greet" in " ".join(collector.spans), DEADLINE
                )
        assert not any("hidden" in line for line in [*client.lines, *running["a"][0].lines])
    expected = {"rpc.system.name": "grpc", "rpc.method": "greeter.v1.GreeterService/Greet", "rpc.response.status_code": "OK"}
    for side in ("server", "client"):
        assert any(expected.items() <= found.items() for found in collector.metrics[f"rpc.{side}.call.duration"])
    assert collector.headers == {"hidden"}


def test_a_collector_is_reached_by_tls_with_a_certificate_and_renewed_files_are_taken_up(tmp_path: Path) -> None:
    """Another authority at both ends, and a collector that was restarted: the server is not. A bundle that the environment
    names for all of requests does not win over the variable for the collector."""
    secret, elsewhere = Secret(tmp_path / "tls", IPAddress(ip_address("127.0.0.1"))), tmp_path / "bundle.pem"
    elsewhere.write_bytes(Authority().certificate)
    folder = secret.folder

    def issue() -> ssl.SSLContext:
        secret.issue(Authority())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    collector = Collector(issue())
    wanted = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": f"{folder}/ca.crt", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": f"{folder}/tls.crt",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": f"{folder}/tls.key",
        "REQUESTS_CA_BUNDLE": str(elsewhere),
    }  # fmt: skip
    port = int(collector.url.rpartition(":")[2])
    with servers("a", **wanted) as running, grpc.insecure_channel(running["a"][1]) as channel:
        greet(channel)
        collector.wait_for("rpc.server.call.duration")
        collector.close()
        collector = Collector(issue(), port)
        greet(channel)
        collector.wait_for("rpc.server.call.duration")
        collector.close()


def test_without_an_endpoint_nothing_of_the_sdk_is_imported() -> None:
    """Neither its time nor its memory is paid for."""
    code = (
        "import sys\nfrom greeter.settings import Settings\nfrom greeter.telemetry import configure\n"
        "import greeter.server.__main__, greeter.client.__main__\n"
        "configure(Settings(), 'server')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    command = [str(PROJECT.python), "-c", code]
    done = subprocess.run(command, env=PROJECT.environment({}), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_logs_are_lines_of_json_where_that_is_set() -> None:
    """Each with time, level, logger and message."""
    with servers("a", LOG__FORMAT="json") as running:
        line = json.loads(running["a"][0].lines[0])
    assert line.keys() >= {"time", "severity", "logger", "message"}
    assert line["message"].startswith("serving as a")
