"""OpenTelemetry's own variables configure what is exported; and no collector keeps a process from its end."""

import http.server
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509 import IPAddress

from .authority import Authority, Secret
from .calls import greet
from .otel_collector import Collector
from .processes import DEADLINE, load_generator, refused, servers
from .project import PROJECT

SOON = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Exports follow each other within a fraction of a second."""


class Endpoint:
    """An HTTP endpoint that answers every export with `status`, and keeps the headers."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0, status: int = 200) -> None:
        self.received = threading.Condition()
        self.headers: list[dict[str, str]] = []
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                with endpoint.received:
                    endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                    endpoint.received.notify_all()
                self.send_response(status)
                self.send_header("Retry-After", "30")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self) -> dict[str, str]:
        """The headers of the first export."""
        with self.received:
            assert self.received.wait_for(lambda: self.headers, DEADLINE)
            return self.headers[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def test_metrics_of_both_sides_and_of_discovery_arrive_with_one_variable(collector: Collector) -> None:
    """Each process under its name; every metric has the instance's identity."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **SOON}
    with servers("a", **variables) as running, load_generator(running["a"][1], **variables):
        names = {"rpc.server.call.duration", "rpc.client.call.duration", "discovery.endpoints", "discovery.propagation.duration"}
        collector.wait_for(lambda: names <= collector.metrics.keys())
    (server,) = {
        (each.resource["service.name"], each.resource["service.instance.id"]) for each in _durations(collector, "server")
    }
    (client,) = {each.resource["service.name"] for each in _durations(collector, "client")}
    assert (server, client) == (("greeter-server", "a"), "greeter-client")


def _durations(collector: Collector, side: str) -> Any:
    return collector.metrics.get(f"rpc.{side}.call.duration", [])


def _all_have(**attributes: str) -> Callable[[Collector], bool]:
    def expected(collector: Collector) -> bool:
        wanted = {name.replace("_", "."): value for name, value in attributes.items()}
        received = [each.resource for each in (*_durations(collector, "server"), *collector.spans)]
        return bool(collector.spans) and all(wanted.items() <= resource.items() for resource in received)

    return expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OTEL_SERVICE_NAME": "mine"}, _all_have(service_name="mine", service_instance_id="a")),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "team=blue, service.name=theirs,service.instance.id=i"},
            _all_have(service_name="theirs", team="blue", service_instance_id="i"),
        ),
        ({"SERVICE_VERSION": "v1,2"}, _all_have(service_version="v1,2")),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, lambda collector: not collector.spans),
        ({"OTEL_TRACES_SAMPLER_ARG": "0"}, lambda collector: not collector.spans),
        ({"OTEL_TRACES_SAMPLER": "", "OTEL_TRACES_SAMPLER_ARG": ""}, lambda collector: len(collector.spans) < 40),
        ({"OTEL_TRACES_EXPORTER": "none"}, lambda collector: not collector.spans),
        ({"OTEL_METRICS_EXPORTER": "none"}, lambda collector: collector.spans and not collector.metrics),
        ({"OTEL_SDK_DISABLED": "true"}, lambda collector: not collector.spans and not collector.metrics),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_variables_of_opentelemetry_count(
    collector: Collector, variables: dict[str, str], expected: Callable[[Collector], bool]
) -> None:
    """As the SDK reads them; what is empty is not set."""
    sampled = {} if "OTEL_TRACES_SAMPLER" in variables else {"OTEL_TRACES_SAMPLER_ARG": "1"}
    wanted = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **sampled, "SERVER__DRAIN__WAIT": "0", **variables}
    with servers("a", **wanted) as running, grpc.insecure_channel(running["a"][1]) as channel:
        for _ in range(100):
            greet(channel)
        running["a"][0].send(signal.SIGTERM)
        assert running["a"][0].ended() == 0
        # The collector answers when it has passed on what it received; its output may still be on its way.
        if "OTEL_SDK_DISABLED" not in variables:
            collector.wait_for(lambda: collector.metrics or collector.spans)
        assert expected(collector), (collector.spans[:1], collector.metrics)


def test_an_exporter_can_be_named_instead_of_an_endpoint() -> None:
    """By its entry point, as `console`."""
    with servers("a", OTEL_METRICS_EXPORTER="console", SERVER__DRAIN__WAIT="0") as running:
        with grpc.insecure_channel(running["a"][1]) as channel:
            greet(channel)
        process = running["a"][0]
        process.send(signal.SIGTERM)
        assert process.ended() == 0
        assert any("rpc.server.call.duration" in line for line in process.lines)


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ("Authorization=Basic%20dXNlcjpwYXNz", {"authorization": "Basic dXNlcjpwYXNz"}),
        ("x-a=1, x-b=2", {"x-a": "1", "x-b": "2"}),
    ],
)
def test_headers_are_decoded_stripped_and_not_logged(headers: str, sent: dict[str, str]) -> None:
    """They often hold a secret."""
    endpoint = Endpoint()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_HEADERS": headers}
    with servers("a", **variables, **SOON, LOG__LEVEL="DEBUG") as running, grpc.insecure_channel(running["a"][1]) as channel:
        greet(channel)
        assert sent.items() <= endpoint.wait().items()
        assert not any("dXNlcjpwYXNz" in line for line in running["a"][0].lines)
    endpoint.close()


@pytest.mark.parametrize(
    ("role", "variables", "sentence"),
    [
        ("client", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "opentelemetry-exporter-otlp-proto-grpc"),
        ("server", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "opentelemetry-exporter-otlp-proto-grpc"),
        ("server", {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, "carrier-pigeon"),
        ("server", {"OTEL_TRACES_SAMPLER": "parentbased_traceidratoi"}, "parentbased_traceidratoi"),
        ("server", {"OTEL_TRACES_SAMPLER_ARG": "often"}, "TRACES_SAMPLER_ARG"),
        ("server", {"OTEL_TRACES_SAMPLER_ARG": "5"}, "sampler"),
        ("server", {"OTEL_METRICS_EXPORTER": "abacus"}, "abacus"),
        ("server", {"OTEL_PROPAGATORS": "tracecontext,b33"}, "b33"),
        ("server", {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "soon"),
        ("server", {"OTEL_METRIC_EXPORT_INTERVAL": "often"}, "export interval"),
        ("server", {"OTEL_EXPORTER_OTLP_HEADERS": "s3cr3t"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ("server", {"OTEL_CONFIG_FILE": "/nowhere"}, "OTEL_CONFIG_FILE"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_the_sdk_cannot_use_is_refused(role: str, variables: dict[str, str], sentence: str) -> None:
    """Status 2 and a sentence, also where the SDK would only warn and use a default; secrets are not shown."""
    lines = refused(role, **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables})
    assert any(line.startswith("settings: ") and sentence in line for line in lines), lines
    assert "s3cr3t" not in "".join(lines)


@contextmanager
def _refusing() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def _unavailable() -> Iterator[str]:
    endpoint = Endpoint(status=503)
    yield endpoint.url
    endpoint.close()


@contextmanager
def _silent() -> Iterator[str]:
    """Connections are accepted, by the kernel, and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def _black_hole() -> Iterator[str]:
    """Not even a connection: the queue of those that nobody accepts is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for each in waiting:
            each.close()


@pytest.mark.parametrize("fault", [_refusing, _unavailable, _silent, _black_hole])
def test_no_collector_keeps_a_process_from_its_end(fault: Callable[[], Any]) -> None:
    """Both sides have been exporting for a while: a server ends within wait, grace and 5 s, a client within 5 s."""
    with fault() as url:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER_ARG": "1", **SOON}
        drain = {"SERVER__DRAIN__WAIT": "0", "SERVER__DRAIN__GRACE": "1"}
        with (
            servers("a", **variables, **drain) as running,
            load_generator(running["a"][1], **variables, CLIENT__RATE="200") as client,
        ):
            client.wait_for("served by")
            for process, promised in ((client, 5.0), (running["a"][0], 1.0 + 5.0)):
                began = time.monotonic()
                process.send(signal.SIGTERM)
                assert process.ended() == 0, process.lines
                assert time.monotonic() - began < promised
                assert not any("Traceback" in line for line in process.lines)


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

    endpoint = Endpoint(issue())
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_CERTIFICATE": f"{folder}/ca.crt",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": f"{folder}/tls.crt", "OTEL_EXPORTER_OTLP_CLIENT_KEY": f"{folder}/tls.key",
        "REQUESTS_CA_BUNDLE": str(elsewhere), **SOON,
    }  # fmt: skip
    port = int(endpoint.url.rpartition(":")[2])
    with servers("a", **variables) as running, grpc.insecure_channel(running["a"][1]) as channel:
        greet(channel)
        endpoint.wait()
        endpoint.close()
        endpoint = Endpoint(issue(), port)
        greet(channel)
        endpoint.wait()
        endpoint.close()


def test_without_an_exporter_nothing_of_the_sdk_is_imported() -> None:
    """Neither its time nor its memory is paid for."""
    code = (
        "import sys\nfrom greeter.settings import Settings\nfrom greeter.telemetry import configure, shutdown\n"
        "import greeter.server.__main__, greeter.client.__main__\n"
        "configure(Settings(), 'server')\nshutdown()\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    command = [str(PROJECT.python), "-c", code]
    done = subprocess.run(command, env=PROJECT.environment({}), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
