"""Logs: a record is one line, as text for people or as a JSON object for collectors; so are uncaught exceptions and warnings.

The names in JSON are those that collectors map by themselves: `time` (RFC 3339), `severity`, `message`, `logger`, `trace_id` and `span_id` (OpenTelemetry's
trace context in other log formats), `exception.stacktrace` (its semantic conventions), and those that `extra` adds.
"""

import json
import logging
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from .discovery.errors import printable

LONGEST = 32_768
"""The number of characters of a value that are logged; collectors cut longer lines themselves."""
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        lines = [f"{moment} {record.levelname:<7} {record.name}: {_message(record)}", *_stack(record, self).splitlines()]
        return "\n".join(printable(line) for line in lines)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **_trace_context(),
        }
        if stack := _stack(record, self):
            fields["exception.stacktrace"] = stack
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return "{" + ", ".join(f"{_json(name)}: {_json(value)}" for name, value in (fields | extra | fields).items()) + "}"


def configure(level: str, format: str) -> None:
    """Log to standard output in a format of settings.Log."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logger = logging.getLogger("uncaught")
    sys.excepthook = lambda *error: logger.critical("uncaught exception", exc_info=error)
    sys.unraisablehook = lambda at: logger.error("%s %r", at.err_msg or "exception ignored in", at.object, exc_info=at.exc_value)
    threading.excepthook = lambda at: logger.critical("uncaught exception in a thread", exc_info=at.exc_value)


def print_errors(origin: str, sentences: Iterable[str], format: str) -> None:
    """Print what keeps the program from starting on standard error, in a format of settings.Log."""
    for sentence in sentences:
        record = logging.makeLogRecord({"name": origin, "levelname": "ERROR", "msg": sentence})
        print(_Json().format(record) if format == "json" else printable(f"{origin}: {sentence}"), file=sys.stderr)


def _message(record: logging.LogRecord) -> str:
    try:
        return _text(record.getMessage())
    except Exception:  # arguments that do not fit
        return f"{_text(record.msg)} {_text(record.args)}"


def _stack(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    error = formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    return _text("\n".join(filter(None, (error, record.stack_info))))


def _trace_context() -> dict[str, str]:
    trace = sys.modules.get("opentelemetry.trace")
    context = trace.get_current_span().get_span_context() if trace is not None else None
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context and context.is_valid else {}


def _json(value: object) -> str:
    """A value in JSON, or its text where JSON cannot hold it: cycles, NaN, half a surrogate pair, too much."""
    try:
        if not isinstance(value, str):
            written = json.dumps(value, default=_text, allow_nan=False)
            json.dumps(value, default=_text, ensure_ascii=False).encode()
            if len(written) <= LONGEST:
                return written
    except (TypeError, ValueError, RecursionError):
        pass
    return json.dumps(_text(value))


def _text(value: object) -> str:
    try:
        text = str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:
        text = object.__repr__(value)
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"
