"""Telemetry: nothing where nothing is wanted, everything where it is."""

import http.server
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.certificates import Authority, write

from .processes import DEADLINE, PACKAGE, Process, servers


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
        "TELEMETRY__OTLP_ENDPOINT": collector.url, "TELEMETRY__INTERVAL": "300ms", "TELEMETRY__SAMPLE_RATIO": "1",
        "TELEMETRY__OTLP_HEADERS": "token=hidden", "LOG__FORMAT": "json",
    }  # fmt: skip
    with servers("a", **wanted) as running:
        client = Process(
            "client", CLIENT__TARGET=f"static:///{running['a'][1]}", CLIENT__RATE="20", CLIENT__HEALTH_PORT="0", **wanted
        )
        try:
            collector.wait_for(
                "rpc.server.call.duration", "rpc.client.call.duration", "discovery.endpoints", "discovery.propagation.duration"
            )
            with collector.received:
                assert collector.received.wait_for(
                    lambda: "greeter.v1.GreeterService/Greet" in " ".join(collector.spans), DEADLINE
                )
        finally:
            client.close()
        assert not any("hidden" in line for line in [*client.lines, *running["a"][0].lines])
    expected = {"rpc.system.name": "grpc", "rpc.method": "greeter.v1.GreeterService/Greet", "rpc.response.status_code": "OK"}
    for side in ("server", "client"):
        assert expected in collector.metrics[f"rpc.{side}.call.duration"]
    assert collector.headers == {"hidden"}


def test_a_collector_is_reached_by_tls_with_a_certificate_and_renewed_files_are_taken_up(tmp_path: Path) -> None:
    """Another authority at both ends, and a collector that was restarted: the server is not. A bundle that the environment
    names for all of requests does not win over the setting."""
    folder, elsewhere = tmp_path / "tls", tmp_path / "bundle.pem"
    elsewhere.write_bytes(Authority().certificate)

    def issue() -> ssl.SSLContext:
        authority = Authority()
        made = authority.issue(["127.0.0.1"])
        write(folder, {"ca.crt": authority.certificate, "tls.crt": made.certificate, "tls.key": made.key})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    collector = Collector(issue())
    wanted = {
        "TELEMETRY__OTLP_ENDPOINT": collector.url, "TELEMETRY__INTERVAL": "300ms", "TELEMETRY__OTLP_CA": f"{folder}/ca.crt",
        "TELEMETRY__OTLP_CERTIFICATE": f"{folder}/tls.crt", "TELEMETRY__OTLP_KEY": f"{folder}/tls.key",
        "REQUESTS_CA_BUNDLE": str(elsewhere),
    }  # fmt: skip
    port = int(collector.url.rpartition(":")[2])
    with servers("a", **wanted) as running, grpc.insecure_channel(running["a"][1]) as channel:
        greeter = greeter_pb2_grpc.GreeterServiceStub(channel)
        greeter.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE)
        collector.wait_for("rpc.server.call.duration")
        collector.close()
        collector = Collector(issue(), port)
        greeter.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE)
        collector.wait_for("rpc.server.call.duration")
        collector.close()


def test_without_an_endpoint_nothing_of_the_sdk_is_imported() -> None:
    """Neither its time nor its memory is paid for."""
    code = (
        f"import asyncio, sys\nfrom {PACKAGE}.settings import Settings\nfrom {PACKAGE}.telemetry import configure\n"
        f"import {PACKAGE}.server.__main__, {PACKAGE}.client.__main__\n"
        "made = configure(Settings(), 'server')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))], made.client_interceptors)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[] ()\n", done.stderr


def test_logs_are_lines_of_json_where_that_is_set() -> None:
    """Each with time, level, logger and message."""
    with servers("a", LOG__FORMAT="json") as running:
        line = json.loads(running["a"][0].lines[0])
    assert line.keys() >= {"time", "level", "logger", "message"}
    assert line["message"].startswith("serving as a")
