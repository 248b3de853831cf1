"""Channels that OpenTelemetry's and Sentry's released packages instrument: every call is answered, and exactly the program's calls are traced."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import CertificateFiles, Health, aio, insecure_channel, secure_channel, status
from discovery.wire import messages_pb2 as wire
from discovery.wire import own_channel

from .servers import DEADLINE, until
from .tls_servers import NAME, trustme

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

TRACED = {
    "opentelemetry": {"traceparent": set(KINDS)},
    "sentry": {"sentry-trace": {"unary_unary", "unary_stream"}},  # it has no interceptor for streams of requests
    "both": {"traceparent": set(KINDS), "sentry-trace": {"unary_unary", "unary_stream"}},
}
"""Which header a tool adds to which kinds of calls."""


@pytest.mark.parametrize("style", ["sync", "aio"])
@pytest.mark.parametrize("tool", TRACED)
def test_every_kind_of_call_is_answered_and_traced_over_every_kind_of_channel(tool: str, style: str) -> None:
    """In a process of its own, since the tools replace functions of gRPC. Health checks and a registry's requests have no spans."""
    for module in ("opentelemetry.instrumentation.grpc", "opentelemetry.sdk", "sentry_sdk"):
        pytest.importorskip(module)
    code = f"from tests.discovery.test_instrumentation import run; run({tool!r}, {style!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (0, "plain secure files native own\n"), done.stderr


class Server:
    """On a plaintext port and on a TLS port. It answers every kind of call with `ab`, and is healthy."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[tuple[str, set[str]]] = []
        """The kind of each call, `Watch` for health, and the keys of its metadata."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(f"{folder}/ca.crt")
        issued = authority.issue_cert(NAME)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        self._server = grpc.server(ThreadPoolExecutor(16))
        handlers = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(self._answer(kind)) for kind in KINDS}
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch, wire.HealthCheckRequest.FromString, wire.HealthCheckResponse.SerializeToString
        )
        services: dict[str, dict[str, Any]] = {"test.Echo": handlers, "grpc.health.v1.Health": {"Watch": watch}}
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        )
        credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
        self.plain = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.secure = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()

    def _note(self, kind: str, context: grpc.ServicerContext) -> None:
        self.seen.append((kind, {key for key, _ in context.invocation_metadata()}))

    def _answer(self, kind: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self._note(kind, context)
            assert b"".join([request] if kind.startswith("unary") else list(request)) == b"xy"
            return b"ab" if kind.endswith("unary") else iter([b"a", b"b"])

        return answer

    def _watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[wire.HealthCheckResponse]:
        self._note("Watch", context)
        yield wire.HealthCheckResponse(status=wire.SERVING_STATUS_SERVING)
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait()


def run(tool: str, style: str) -> None:
    """In the process of its own."""
    spans = instrument(tool)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        files = CertificateFiles(ca=f"{folder}/ca.crt")
        credentials = grpc.ssl_channel_credentials((Path(folder) / "ca.crt").read_bytes())
        options = (("grpc.default_authority", NAME),)
        channels: dict[str, tuple[str, Any]] = {
            "plain": (f"static:///{server.plain}", None),
            "secure": (f"static:///{server.secure}", credentials),
            "files": (f"static:///{server.secure}", files),
            "native": (f"ipv4:{server.secure}", files),
        }
        for name, (target, chosen) in channels.items():
            server.seen.clear()
            spans.clear()
            arguments = (target, chosen, options)
            calls = asyncio.run(call_aio(*arguments)) if style == "aio" else call_sync(*arguments)
            check(tool, server.seen, spans, calls)
            assert ("Watch" in dict(server.seen)) == (name != "native")
            print(name, end=" ")
        server.seen.clear()
        spans.clear()
        for channel in (own_channel(server.plain, None), own_channel(server.secure, credentials, options)):
            for kind in KINDS:
                list(getattr(channel, kind)(f"/test.Echo/{kind}")(request(kind), timeout=DEADLINE))
            channel.close()
        assert spans == []
        assert not any(key in TRACED["both"] for _, keys in server.seen for key in keys)
        print("own", flush=True)
    os._exit(0)  # the tools' threads end with the process


def instrument(tool: str) -> list[str]:
    """As their documentation says; returns the names of OpenTelemetry's spans, also of those that have not ended."""
    names: list[str] = []
    if tool in ("opentelemetry", "both"):
        from opentelemetry import trace
        from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Names(SpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                names.append(span.name)

        provider = TracerProvider()
        trace.set_tracer_provider(provider)  # the instrumentation of sync channels uses no other
        provider.add_span_processor(Names())
        for instrumentor in (GrpcInstrumentorClient, GrpcAioInstrumentorClient):
            instrumentor().instrument()
    if tool in ("sentry", "both"):
        import sentry_sdk
        from sentry_sdk.integrations.grpc import GRPCIntegration

        sentry_sdk.init(
            dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0, transport=lambda event: None, integrations=[GRPCIntegration()]
        )
        sentry_sdk.start_transaction(name="test").__enter__()  # outside of one, there are no headers
    return names


def request(kind: str) -> Any:
    """One message, or two."""
    return b"xy" if kind.startswith("unary") else iter([b"x", b"y"])


def check(tool: str, seen: list[tuple[str, set[str]]], spans: list[str], calls: list[str]) -> None:
    """Only the program's calls have a span and headers."""
    if tool != "sentry":
        assert sorted(spans) == sorted(f"/test.Echo/{kind}" for kind in calls)
    assert sorted(kind for kind, _ in seen if kind != "Watch") == sorted(calls)
    for header, kinds in TRACED[tool].items():
        for kind, metadata in seen:
            assert (header in metadata) == (kind in kinds), (kind, metadata)


def call_sync(target: str, credentials: Any, options: Any) -> list[str]:
    """Call every kind of method in every way; returns the kinds of the calls."""
    calls: list[str] = []
    with insecure_channel(target) if credentials is None else secure_channel(target, credentials, options) as channel:
        for kind in KINDS:
            method = getattr(channel, kind)(f"/test.Echo/{kind}")
            answer = method(request(kind), timeout=DEADLINE)
            assert (answer if kind.endswith("unary") else b"".join(answer)) == b"ab"
            calls.append(kind)
            if kind.endswith("unary"):
                assert method.with_call(request(kind), timeout=DEADLINE)[0] == b"ab"
                assert method.future(request(kind), timeout=DEADLINE).result() == b"ab"
                calls += [kind, kind]
        wait_for_health(target)
    return calls


async def call_aio(target: str, credentials: Any, options: Any) -> list[str]:
    """The same on an event loop."""
    async with (
        aio.insecure_channel(target) if credentials is None else aio.secure_channel(target, credentials, options) as channel
    ):
        for kind in KINDS:
            method = getattr(channel, kind)(f"/test.Echo/{kind}")
            if kind.endswith("unary"):
                assert await method(request(kind), timeout=DEADLINE) == b"ab"
            else:
                assert b"".join([answer async for answer in method(request(kind), timeout=DEADLINE)]) == b"ab"
        wait_for_health(target)
    return list(KINDS)


def wait_for_health(target: str) -> None:
    """Until the library itself has asked a server, unless gRPC resolves the target."""
    if target.startswith("static:"):
        until(lambda: status(target).by_health() == {Health.HEALTHY: 1})
