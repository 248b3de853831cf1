"""Spans and metrics of calls, as the OpenTelemetry Collector receives them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from .otel_collector import Collector, Point, Span
from .processes import DEADLINE, servers

SERVICE = (Path(__file__).parent / "kinds_service.py").read_text()
SERVER, CLIENT = 2, 3
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def exporting(collector: Collector, **more: str) -> dict[str, str]:
    """Variables of a process whose telemetry arrives within a fraction of a second, all of it sampled."""
    soon = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_TRACES_SAMPLER_ARG": "1"}
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **soon, **more}


def opened(address: str) -> Any:
    """A channel for methods without stubs, which the types of gRPC do not have."""
    return grpc.insecure_channel(address)


def call(channel: Any, name: str, request: bytes = b"", **more: Any) -> bytes:
    """A call of a unary method; the response, or the name of the status."""
    try:
        return bytes(channel.unary_unary(f"/test.Kinds/{name}")(request, **{"timeout": DEADLINE, **more}))
    except grpc.RpcError as error:
        return error.code().name.encode()


def ended(collector: Collector, name: str, code: str, kind: int = SERVER) -> Span:
    """The span of a call that has ended so."""

    def found() -> Span | None:
        return next(
            (
                span
                for span in collector.spans
                if span.name == f"test.Kinds/{name}" and span.kind == kind and span.attributes["rpc.response.status_code"] == code
            ),
            None,
        )

    span: Span = collector.wait_for(found)
    return span


def durations(collector: Collector, name: str, code: str, side: str = "server") -> list[Point]:
    """The data point of the calls that have ended so, as often as it has been exported."""
    attributes = {"rpc.method": f"test.Kinds/{name}", "rpc.response.status_code": code}
    points: list[Point] = collector.wait_for(lambda: collector.points(f"rpc.{side}.call.duration", attributes))
    return points


def exemplars(points: list[Point]) -> list[str]:
    """The spans that are exemplars; each is exported once."""
    return [exemplar for point in points for exemplar in point.exemplars]


@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "not sampled"])
def test_calls_of_all_kinds_and_styles_have_a_duration_and_a_span(collector: Collector, sampled: bool) -> None:
    """One and several messages in either direction; returned, yielded, and written; on a thread. A response is as without telemetry."""
    variables = exporting(collector, OTEL_TRACES_SAMPLER_ARG="1" if sampled else "0")
    with servers("a", code=SERVICE, **variables) as running, opened(running["a"][1]) as channel:
        assert call(channel, "Returns") == call(channel, "Plain") == b"one"
        assert list(channel.unary_stream("/test.Kinds/Yields")(b"", timeout=DEADLINE)) == [b"several"] * 3
        assert list(channel.unary_stream("/test.Kinds/Writes")(b"", timeout=DEADLINE)) == [b"several"] * 3
        assert channel.stream_unary("/test.Kinds/TakesStream")(iter([b"", b""]), timeout=DEADLINE) == b"one"
        assert list(channel.stream_stream("/test.Kinds/Both")(iter([b""]), timeout=DEADLINE)) == [b"several"] * 3
        for name in ("Returns", "Plain", "Yields", "Writes", "TakesStream", "Both"):
            points = durations(collector, name, "OK")
            assert points[-1].count == 1
            if sampled:
                span = ended(collector, name, "OK")
                assert span.status == 0
                assert span.schema == "https://opentelemetry.io/schemas/1.45.0"
                assert exemplars(points) == [span.identity]
                assert {"rpc.system.name": "grpc", "rpc.method": f"test.Kinds/{name}"}.items() <= span.attributes.items()
                assert span.attributes["server.address"] == "127.0.0.1"
            else:
                assert not collector.spans
                assert not exemplars(points)


def test_every_status_has_the_attributes_of_the_conventions_on_both_sides(collector: Collector) -> None:
    """On a client all but OK are errors, on a server those that are not the caller's. One trace goes through both servers."""
    codes = [code.name for code in grpc.StatusCode]
    with servers("a", "b", code=SERVICE, **exporting(collector)) as running, opened(running["a"][1]) as channel:
        host, port = running["b"][1].split(":")
        for code in codes:
            assert call(channel, "Calls", f"static:///{host}:{port} {'' if code == 'OK' else code}".encode()) in (
                b"one",
                code.encode(),
            )
        for code in codes:
            name = "Returns" if code == "OK" else "Aborts"
            client, server = ended(collector, name, code, CLIENT), ended(collector, name, code)
            outer = next(span for span in collector.spans if span.identity == client.parent)
            assert (server.parent, server.trace, outer.name) == (client.identity, client.trace, "test.Kinds/Calls")
            assert {"server.address": host, "server.port": int(port)}.items() <= client.attributes.items()
            for side, span, failed in (("client", client, code != "OK"), ("server", server, code in SERVER_ERRORS)):
                points = durations(collector, name, code, side)
                attributes = points[-1].attributes
                assert exemplars(points) == [span.identity]
                assert span.status == (2 if failed else 0), (side, code)
                assert span.attributes.get("error.type") == attributes.get("error.type") == (code if failed else None), (
                    side,
                    code,
                )
                if side == "client":
                    assert {"server.address": host, "server.port": int(port)}.items() <= attributes.items()
                else:
                    assert "server.address" not in attributes  # the conventions leave it out unless somebody opts in


def test_deadlines_cancellations_and_errors_have_their_status(collector: Collector) -> None:
    """As the caller sees them; what a handler raises is INTERNAL, and its span holds the exception."""
    with servers("a", code=SERVICE, **exporting(collector)) as running, opened(running["a"][1]) as channel:
        assert call(channel, "Hangs", timeout=0.2) == b"DEADLINE_EXCEEDED"
        assert ended(collector, "Hangs", "DEADLINE_EXCEEDED").status == 2
        future = channel.unary_unary("/test.Kinds/Hangs").future(b"", timeout=DEADLINE)
        stream = channel.unary_stream("/test.Kinds/Drips")(b"", timeout=DEADLINE)
        assert next(stream) == b"more"
        future.cancel()
        stream.cancel()
        for name in ("Hangs", "Drips"):
            assert ended(collector, name, "CANCELLED").status == 0
            assert durations(collector, name, "CANCELLED")[-1].count == 1
        assert call(channel, "Raises") == b"INTERNAL"
        (event,) = ended(collector, "Raises", "INTERNAL").events
        assert event["exception.type"] == "RuntimeError"


@pytest.mark.parametrize(
    "metadata",
    [(), (("baggage", "a=b"),), (("traceparent", "garbage"),), (("traceparent", f"00-{'a' * 32}-{'b' * 16}-00"),)],
    ids=["nothing", "lone baggage", "garbage", "not sampled"],
)
def test_the_caller_decides_what_is_sampled_and_else_the_ratio(collector: Collector, metadata: Any) -> None:
    """Never is a part of a trace recorded without its beginning, nor everything because of a header that is no trace."""
    count = 150
    variables = exporting(collector, OTEL_TRACES_SAMPLER_ARG="0.1", SERVER__DRAIN__WAIT="0")
    with servers("a", "b", code=SERVICE, **variables) as running:
        with opened(running["a"][1]) as channel:
            for _ in range(count):
                assert call(channel, "Calls", f"static:///{running['b'][1]} ".encode(), metadata=metadata) == b"one"
        for process, _ in running.values():
            process.send(signal.SIGTERM)
        for process, _ in running.values():
            assert process.ended() == 0
        collector.wait_for(lambda: len(collector.metrics.get("rpc.server.call.duration", [])) >= 2)
    roots = [span for span in collector.spans if not span.parent]
    assert {span.name for span in roots} <= {"test.Kinds/Calls"}
    assert len(collector.spans) == 3 * len(roots)  # the server's, its client's, and that of the other server
    if metadata and metadata[0][1].endswith("-00"):
        assert not roots
    else:
        assert 0 < len(roots) < count / 2


def test_rejected_calls_and_attempts_are_counted(collector: Collector) -> None:
    """What reaches no handler has no duration; and a client's call is one, of however many attempts."""
    limited = exporting(collector, SERVER__MAX_CONCURRENT_RPCS="1")
    with servers("a", code=SERVICE, **limited) as running, opened(running["a"][1]) as channel:
        stream = channel.unary_stream("/test.Kinds/Drips")(b"", timeout=DEADLINE)
        next(stream)
        assert call(channel, "Returns") == b"RESOURCE_EXHAUSTED"
        rejected = {"rpc.method": "test.Kinds/Returns", "rpc.response.status_code": "RESOURCE_EXHAUSTED"}
        assert collector.wait_for(lambda: collector.points("calls.rejected", rejected))[-1].value == 1
        stream.cancel()
        ended(collector, "Drips", "CANCELLED")
        assert call(channel, "Calls", f"static:///{running['a'][1]} ".encode()) == b"RESOURCE_EXHAUSTED"
        attempts = {"grpc.method": "test.Kinds/Returns", "grpc.target": f"static:///{running['a'][1]}"}
        assert collector.wait_for(lambda: collector.points("grpc.client.attempt.started", attempts))[-1].value == 1


def test_callers_that_leave_streams_cause_no_line_of_logs(collector: Collector) -> None:
    """The context of a stream is detached where it was attached."""
    with servers("a", code=SERVICE, **exporting(collector)) as running, opened(running["a"][1]) as channel:
        process = running["a"][0]
        before = len(process.lines)
        for _ in range(30):
            stream = channel.unary_stream("/test.Kinds/Drips")(b"", timeout=DEADLINE)
            next(stream)
            stream.cancel()
        collector.wait_for(lambda: sum(span.name == "test.Kinds/Drips" for span in collector.spans) == 30)
        assert process.lines[before:] == []


def test_a_stream_that_the_drain_cuts_is_in_the_last_export(collector: Collector) -> None:
    """Its span and its duration, in exports that only the end of the process causes."""
    late = exporting(collector, OTEL_METRIC_EXPORT_INTERVAL="600000", OTEL_BSP_SCHEDULE_DELAY="600000")
    drain = {"SERVER__DRAIN__WAIT": "0", "SERVER__DRAIN__GRACE": "1"}
    with servers("a", code=SERVICE, **late, **drain) as running, opened(running["a"][1]) as channel:
        stream = channel.unary_stream("/test.Kinds/Drips")(b"", timeout=DEADLINE)
        next(stream)
        running["a"][0].send(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(stream)
        assert running["a"][0].ended() == 0, running["a"][0].lines
        assert ended(collector, "Drips", "CANCELLED").status == 0
        assert durations(collector, "Drips", "CANCELLED")[-1].count == 1
