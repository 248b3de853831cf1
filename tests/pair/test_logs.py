"""Logs: one line a record, whatever it holds, in the chosen format from the first sentence on."""

import io
import json
import logging
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from greeter.logs import LONGEST, Line

from .project import PROJECT

cycle: list[Any] = []
cycle.append(cycle)
deep: list[Any] = []
for _ in range(5000):
    deep = [deep]


class Broken:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


VALUES: dict[str, Any] = {
    "a newline": "a\nb\r\nc\u2028d\u0085e",
    "a terminal's escapes": "\x1b[2J\x1b]0;title\x07\x00",
    "half a surrogate pair": "\udcff",
    "half a surrogate pair inside": {"a": ["\udcff"]},
    "an emoji": {"a": "\U0001f600"},
    "an object": object(),
    "a broken object": Broken(),
    "one inside": {"a": [Broken()]},
    "NaN": float("nan"),
    "infinity inside": {"a": float("inf")},
    "a cycle": cycle,
    "depth": deep,
    "a long text": "x" * 10_000_000,
    "a long list": list(range(1_000_000)),
    "a number of many digits": 10**5000,
    "keys that are no text": {(1, 2): 3},
    "bytes": b"\xff\n",
    "an exception": ValueError("a\nb"),
}


def line(form: str, log: Callable[[logging.Logger], None]) -> str:
    """What a logger prints for one record."""
    stream, logger = io.StringIO(), logging.Logger("greeter.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Line(form))
    logger.addHandler(handler)
    log(logger)
    stream.getvalue().encode()  # half a surrogate pair cannot be
    return stream.getvalue()


@pytest.mark.parametrize("case", VALUES)
def test_a_record_is_one_json_object_on_one_line(case: str) -> None:
    """As the message, as an argument of it, and as an extra field."""
    value = VALUES[case]
    for log in (
        lambda logger: logger.info(value),
        lambda logger: logger.info("got %s", value),
        lambda logger: logger.info("got", extra={"found": value}),
        lambda logger: logger.info("got %s %s", value),  # an argument is missing
    ):
        printed = line("json", log)
        assert len(printed.splitlines()) == 1
        assert len(printed) < 7 * LONGEST
        found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        json.dumps(found, ensure_ascii=False).encode()  # not with half a surrogate pair
        assert found["severity"] == "INFO"
        assert found["logger"] == "greeter.test"


@pytest.mark.parametrize("case", VALUES)
def test_a_record_for_people_is_one_line_too(case: str) -> None:
    """A peer's text cannot look like another record, nor control the terminal."""
    for log in (lambda logger: logger.info(VALUES[case]), lambda logger: logger.info("got %s", VALUES[case])):
        printed = line("console", log)
        assert printed.endswith("\n")
        assert printed[:-1].isprintable()


@given(
    st.text(), st.dictionaries(st.text(), st.recursive(st.none() | st.floats() | st.text(), st.lists, max_leaves=5), max_size=3)
)
def test_any_text_and_any_extra_fields_come_back(text: str, extra: dict[str, Any]) -> None:
    """The standard fields keep their meaning; what is valid text comes back as it was."""
    extra = {name: value for name, value in extra.items() if name not in ("message", "asctime", *vars(logging.makeLogRecord({})))}
    printed = line("json", lambda logger: logger.warning("%s", text, extra={**extra, "severity": "x", "time": "x"}))
    found = json.loads(printed)
    assert found["message"] == text.encode("utf-8", "backslashreplace").decode()
    assert found["severity"] == "WARNING"
    assert found.keys() >= {name for name in extra if name.isprintable()}


def test_a_traceback_is_a_field() -> None:
    """By the name of OpenTelemetry's semantic conventions."""
    try:
        raise ValueError("a\nb")
    except ValueError:
        printed = line("json", lambda logger: logger.exception("failed"))
    assert len(printed.splitlines()) == 1
    assert json.loads(printed)["exception.stacktrace"].startswith("Traceback (most recent call last)")


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_the_time_is_rfc_3339_with_its_offset(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is the same moment whatever the process's time zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    before = time.time()
    printed = datetime.fromisoformat(json.loads(line("json", lambda logger: logger.info("x")))["time"])
    monkeypatch.undo()
    time.tzset()
    assert printed.utcoffset() is not None
    assert before - 0.001 <= printed.timestamp() <= time.time()


def test_a_record_inside_a_span_has_its_ids() -> None:
    """In the form of the W3C's trace context."""
    with TracerProvider().get_tracer("x").start_as_current_span("a") as span:
        found = json.loads(line("json", lambda logger: logger.info("x")))
    context = span.get_span_context()
    assert (found["trace_id"], found["span_id"]) == (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
    )
    with trace.use_span(span):
        assert line("console", lambda logger: logger.info("x")).endswith(f": x trace_id={found['trace_id']}\n")


AT_RUNTIME = """
import asyncio, gc, logging, sys, threading, warnings
from greeter import logs
logs.configure("INFO", "json")
warnings.warn("old\\nthing")
class Bad:
    def __del__(self): raise ValueError("in del")
bad = Bad(); del bad
thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
async def main():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    async def fail(): raise KeyError("task")
    task = asyncio.create_task(fail()); await asyncio.sleep(0); await asyncio.sleep(0); del task; gc.collect()
asyncio.run(main())
raise RuntimeError("the\\nend")
"""


def test_what_python_itself_reports_is_a_line_of_json() -> None:
    """Warnings, exceptions in threads, finalizers, callbacks, tasks, and the one that ends the program."""
    done = subprocess.run(
        [PROJECT.python, "-c", AT_RUNTIME], env=PROJECT.environment({}), capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    found = [json.loads(each) for each in done.stdout.splitlines()]
    assert [each["logger"] for each in found] == ["py.warnings", "uncaught", "uncaught", "asyncio", "asyncio", "uncaught"]
    assert "the\nend" in found[-1]["exception.stacktrace"]
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"SERVER__PORT": "many"}, 2),
        ({"SERVER__PROT": "1"}, 2),
        ({"SETTINGS_DIR": "/nonexistent"}, 2),
        ({"TLS__CA": "x"}, 2),
        ({"TLS__MODE": "tls", "TLS__CERTIFICATE": "/nonexistent", "TLS__KEY": "/nonexistent"}, 2),
        ({"SERVER__HOST": "nowhere.invalid", "GRPC_VERBOSITY": "NONE"}, 1),
    ],
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_an_error_at_start_has_the_format_of_the_logs(settings: dict[str, str], status: int, form: str) -> None:
    """Even if the settings are invalid, for a collector reads it too."""
    environment = PROJECT.environment({**settings, "LOG__FORMAT": form}) | {"GRPC_VERBOSITY": "NONE"}
    environment.pop("GREETER__GRPC_VERBOSITY", None)
    done = subprocess.run(PROJECT.command("server"), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    (printed,) = done.stderr.splitlines()
    if form == "console":
        assert printed.startswith("settings: " if status == 2 else "server: ")
    else:
        found = json.loads(printed)
        assert found["severity"] == "ERROR"
        assert found["logger"] == ("settings" if status == 2 else "server")
        assert "GREETER__" in found["message"]


def test_the_format_of_an_error_at_start_may_be_in_the_dotenv_file() -> None:
    """All sources count."""
    with open(".env", "w") as file:
        file.write("GREETER__LOG__FORMAT=json\nGREETER__SERVER__PORT=many\n")
    done = subprocess.run(PROJECT.command("server"), env=PROJECT.environment({}), capture_output=True, text=True, timeout=60)
    assert json.loads(done.stderr)["message"] == (
        "GREETER__SERVER__PORT='many' in .env is invalid: Input should be a valid integer, unable to parse string as an integer"
    )
