"""The OpenTelemetry Collector, built from its Go modules, with what it has received."""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.bake import ROOT

from .processes import DEADLINE

SOURCE = Path(__file__).parent / "collector"
PROGRAM = ROOT / "build" / "otel-collector"


@dataclass(frozen=True)
class Span:
    """As OTLP has it. kind: 2 is a server's, 3 a client's.   status: 0 is unset, 2 an error."""

    name: str
    kind: int
    trace: str
    identity: str
    parent: str
    status: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[dict[str, Any]]
    schema: str


@dataclass(frozen=True)
class Point:
    """A data point of a metric. count: of a histogram; value: of a sum or gauge.   exemplars: the identities of their spans."""

    attributes: dict[str, Any]
    count: int
    value: float
    exemplars: list[str]
    resource: dict[str, Any] = field(compare=False)


class Collector:
    """Receives OTLP over HTTP at `url`; `spans` and `metrics` are what has arrived. Prometheus scrapes it at `scraped`. A context manager."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
            endpoint, self.scraped = (f"127.0.0.1:{each.getsockname()[1]}" for each in (free, other))
        self.url = f"http://{endpoint}"
        self.spans: list[Span] = []
        self.metrics: dict[str, list[Point]] = {}
        self._arrived = threading.Condition()
        # A pipe for each signal: into one, the two exporters would write parts of their lines in turns.
        self._pipes = {signal: os.pipe() for signal in ("traces", "metrics")}
        config = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": endpoint}}}},
            "exporters": {
                f"file/{signal}": {"path": f"/dev/fd/{pipe[1]}", "flush_interval": "20ms"} for signal, pipe in self._pipes.items()
            }
            | {"prometheus": {"endpoint": self.scraped}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "exporters": ["file/traces"]},
                    "metrics": {"receivers": ["otlp"], "exporters": ["file/metrics", "prometheus"]},
                },
            },
        }
        self._process = subprocess.Popen(
            [program(), f"--config=yaml:{json.dumps(config)}"],
            stderr=subprocess.PIPE,
            pass_fds=[pipe[1] for pipe in self._pipes.values()],
            text=True,
        )
        assert self._process.stderr is not None
        started = next((line for line in self._process.stderr if "Everything is ready" in line), None)
        assert started, "the collector has not started"
        threading.Thread(target=self._drain, daemon=True).start()
        for pipe in self._pipes.values():
            os.close(pipe[1])
            threading.Thread(target=self._read, args=[pipe[0]], daemon=True).start()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """What `condition` returns as soon as that is true."""
        with self._arrived:
            found = self._arrived.wait_for(condition, DEADLINE)
            assert found, f"received: {sorted(self.metrics)}, {[span.name for span in self.spans]}"
            return found

    def points(self, metric: str, attributes: dict[str, Any]) -> list[Point]:
        """The points of a metric that have these attributes among theirs."""
        return [point for point in self.metrics.get(metric, []) if attributes.items() <= point.attributes.items()]

    def _read(self, pipe: int) -> None:
        with open(pipe, encoding="utf-8") as lines:
            for line in lines:
                with self._arrived:
                    self._take(json.loads(line))
                    self._arrived.notify_all()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for _ in self._process.stderr:
            pass

    def _take(self, received: dict[str, Any]) -> None:
        for resource, scope in _scopes(received, "Spans"):
            for each in scope["spans"]:
                attributes, status = _attributes(each), int(each.get("status", {}).get("code", 0))
                ids = each["traceId"], each["spanId"], each.get("parentSpanId", "")
                events = [_attributes(event) for event in each.get("events", [])]
                self.spans.append(
                    Span(each["name"], each["kind"], *ids, status, attributes, resource, events, scope.get("schemaUrl", ""))
                )
        for resource, scope in _scopes(received, "Metrics"):
            for metric in scope["metrics"]:
                data = next(metric[kind] for kind in ("histogram", "sum", "gauge") if kind in metric)
                for each in data["dataPoints"]:
                    value = float(each.get("asInt", each.get("asDouble", each.get("sum", 0))))
                    exemplars = [exemplar.get("spanId", "") for exemplar in each.get("exemplars", [])]
                    point = Point(_attributes(each), int(each.get("count", 0)), value, exemplars, resource)
                    self.metrics.setdefault(metric["name"], []).append(point)

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _scopes(received: dict[str, Any], kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for resource in received.get(f"resource{kind}", []):
        for scope in resource[f"scope{kind}"]:
            yield _attributes(resource["resource"]), scope


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    """Plain values; OTLP's JSON has 64-bit integers as text."""
    found = {}
    for pair in holder.get("attributes", []):
        ((kind, value),) = pair["value"].items()
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found


def program() -> str:
    """The collector's binary, built once. Skips the test where there is no Go, or no access to its modules."""
    sources = [path for path in SOURCE.iterdir() if path.suffix in (".go", ".mod", ".sum")]
    PROGRAM.parent.mkdir(exist_ok=True)
    with _locked(Path(f"{PROGRAM}.lock")):
        if not PROGRAM.exists() or PROGRAM.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
            if go is None:
                pytest.skip(
                    "the OpenTelemetry Collector is built by Go: install it from https://go.dev/dl, and put it on the PATH"
                )
            build = ["nice", go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(PROGRAM), "."]
            done = subprocess.run(build, cwd=SOURCE, capture_output=True, text=True)
            if re.search(r"dial tcp|lookup |timeout|proxyconnect", done.stderr):
                pytest.skip(f"the OpenTelemetry Collector's Go modules cannot be downloaded: {done.stderr[-300:]}")
            assert done.returncode == 0, done.stderr[-3000:]
    return str(PROGRAM)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
