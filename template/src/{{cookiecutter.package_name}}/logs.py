"""Logs: a record is one line, as text for people or as a JSON object for collectors; so are warnings and uncaught exceptions.

The names in JSON are those that collectors map by themselves: `time` (RFC 3339), `severity`, `message`, `logger`, `trace_id` and `span_id`
(OpenTelemetry's trace context in other log formats), `exception.stacktrace` (its semantic conventions), and those that `extra` adds.
"""

import json
import logging
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime

from opentelemetry import trace

from .discovery.errors import printable

LONGEST = 32_768
"""The number of characters of a value that are logged; collectors cut longer lines."""
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class Line(logging.Formatter):
    """Formats any record, as console or json. In console, a traceback follows on lines of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = _text(record.getMessage())
        except Exception:  # arguments that do not fit
            message = f"{_text(record.msg)} {_text(record.args)}"
        error = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        stack = _text("\n".join(filter(None, (error, record.stack_info))))
        moment = datetime.fromtimestamp(record.created, UTC)
        context = trace.get_current_span().get_span_context()
        ids = {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}
        if not self._json:
            line = f"{moment.astimezone():%H:%M:%S} {record.levelname:<7} {record.name}: {message}"
            line += f" trace_id={ids['trace_id']}" if context.is_valid else ""
            return "\n".join(map(printable, [line, *stack.splitlines()]))
        fields = {"time": moment.isoformat(timespec="milliseconds"), "severity": record.levelname, "logger": record.name}
        fields["message"] = message
        if stack:
            fields["exception.stacktrace"] = stack
        if context.is_valid:
            fields |= ids
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return "{" + ", ".join(f"{_value(name)}: {_value(value)}" for name, value in (fields | extra | fields).items()) + "}"


def configure(level: str, form: str) -> None:
    """Log to standard output; level and form as in settings.Log."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Line(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logger = logging.getLogger("uncaught")
    sys.excepthook = lambda *error: logger.critical("uncaught exception", exc_info=error)
    sys.unraisablehook = lambda at: logger.error("%s %r", at.err_msg or "exception ignored in", at.object, exc_info=at.exc_value)
    threading.excepthook = lambda at: logger.critical("uncaught exception in %s", at.thread, exc_info=at.exc_value)


def print_errors(origin: str, sentences: Iterable[str], form: str) -> None:
    """Print on standard error what keeps the program from starting."""
    for sentence in sentences:
        record = logging.makeLogRecord({"name": origin, "levelname": "ERROR", "msg": sentence})
        print(Line(form).format(record) if form == "json" else printable(f"{origin}: {sentence}"), file=sys.stderr)


def _value(value: object) -> str:
    """A value in JSON, or its text where JSON cannot hold it: cycles, NaN, half a surrogate pair, too much."""
    try:
        written = json.dumps(value, default=_text, allow_nan=False)
        if (
            not isinstance(value, str)
            and len(written) <= LONGEST
            and json.dumps(value, default=_text, ensure_ascii=False).encode()
        ):
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
