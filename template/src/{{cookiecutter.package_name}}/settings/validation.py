"""Settings that cannot work together: for each combination, one sentence with the names, the values, and what to change.

gRPC itself does not report them: it disconnects, ignores them, or loses calls later, under load.
"""

import difflib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..discovery import service_config_problems
from ..discovery.calls.concurrency_limit import READERS
from .sections import Section
from .sources import Settings
from .types import text

SLACK = 5.0
"""Seconds that a pod needs in addition to its drain: signals, the last export of telemetry, the interpreter's exit."""
BASE_MEMORY, MEMORY_PER_BYTE = 96 * 1024 * 1024, 7
"""The bytes of memory that a server needs without a call, and for each byte in flight: gRPC's buffers, the message, its objects, a response
of the same size. READERS more requests are being received meanwhile."""


def contradictions(settings: Settings) -> Iterator[str]:
    """Why the program must not start with these settings."""
    yield from _both_sides(settings, 2)
    yield from _server(settings)
    yield from _tls(settings)
    yield from _options(settings)


def warnings(settings: Settings) -> Iterator[str]:
    """What depends on the settings of the other side, which only that side has."""
    yield from _both_sides(settings, 1)
    server, client = settings.server, settings.client
    longest = (server.max_connection_age or float("inf")) + server.max_connection_age_grace
    if _set(server, "max_connection_age") + _set(client, "stream_timeout") == 2 and longest < client.stream_timeout:
        yield f"CLIENT__STREAM_TIMEOUT={text(client.stream_timeout)}, but SERVER__MAX_CONNECTION_AGE and its grace end streams after {text(longest)}; their callers must open them again"


def _both_sides(settings: Settings, number: int) -> Iterator[str]:
    """Contradictions of a server's and a client's setting of which this number is set: 1 or 2."""
    server, client = settings.server, settings.client
    interval, time = server.keepalive.min_ping_interval, client.keepalive.time
    if time < 2 * interval and number == _set(server.keepalive, "min_ping_interval") + _set(client.keepalive, "time"):
        least = f"raise CLIENT__KEEPALIVE__TIME={text(time)} to at least {text(2 * interval)}"
        yield f"SERVER__KEEPALIVE__MIN_PING_INTERVAL={text(interval)} closes connections of clients that ping more often; lower it, or {least}"
    grace = server.max_connection_age_grace if server.max_connection_age else float("inf")
    if grace < client.timeout and number == _set(server, "max_connection_age_grace") + _set(client, "timeout"):
        yield f"SERVER__MAX_CONNECTION_AGE_GRACE={text(grace)} cancels calls with CLIENT__TIMEOUT={text(client.timeout)}; raise it, or lower the second"


def _set(section: Section, name: str) -> bool:
    return name in section.model_fields_set


def _server(settings: Settings) -> Iterator[str]:
    server, drain = settings.server, settings.server.drain
    size, message, needed = server.max_bytes_in_flight, server.max_message_bytes, drain.wait + drain.grace + SLACK
    if drain.termination_grace is not None and needed > drain.termination_grace:
        yield (
            f"SERVER__DRAIN__WAIT={text(drain.wait)} and SERVER__DRAIN__GRACE={text(drain.grace)} with {text(SLACK)} to spare need {text(needed)}, but "
            f"SERVER__DRAIN__TERMINATION_GRACE={text(drain.termination_grace)} kills the pod earlier; raise the last, in the pod too, or lower the others"
        )
    if size < message:
        yield f"SERVER__MAX_BYTES_IN_FLIGHT={size} is less than SERVER__MAX_MESSAGE_BYTES={message} of one request; raise the first or lower the second"
    memory = BASE_MEMORY + MEMORY_PER_BYTE * size + READERS * message
    if server.memory_limit is not None and memory > server.memory_limit:
        yield (
            f"SERVER__MAX_BYTES_IN_FLIGHT={size} and SERVER__MAX_MESSAGE_BYTES={message} need up to {memory} bytes of memory, more than "
            f"SERVER__MEMORY_LIMIT={server.memory_limit}; raise the container's limit to {memory}, or lower the others"
        )
    target, address = settings.registration.target, settings.registration.address
    if target is not None and not address:
        yield f"REGISTRATION__TARGET={target} with REGISTRATION__ADDRESS empty; set the second to the IP address of this server (in a pod: status.podIP), or the first to none"


def _tls(settings: Settings) -> Iterator[str]:
    tls, mode = settings.tls, f"TLS__MODE={settings.tls.mode}"
    empty = [f"TLS__{name.upper()}" for name in ("certificate", "key", "ca") if not getattr(tls, name)]
    if tls.mode == "mtls" and empty:
        yield f"{mode} with {' and '.join(empty)} empty: both sides present a certificate and check the other's; set PEM files, such as TLS__CA=/etc/tls/ca.crt"
    if tls.mode == "off" and len(empty) < 3:
        yield f"{mode} ignores the files of TLS__CERTIFICATE, TLS__KEY and TLS__CA and sends plaintext; set the first to tls or mtls, or clear the others"
    if tls.mode != "mtls" and tls.allowed_clients is not None:
        yield f"TLS__ALLOWED_CLIENTS with {mode} would reject every call, because no client presents a certificate; set the second to mtls, or remove the first"


def _options(settings: Settings) -> Iterator[str]:
    if not settings.grpc_options:
        return
    # gRPC ignores a name that it does not have; the only list of its names is the library itself.
    library = Path(importlib.import_module("grpc._cython.cygrpc").__file__ or "").read_bytes()
    known = {name.decode() for name in re.findall(rb"grpc\.[A-Za-z0-9][\w.]*\w(?![\w.])", library)}
    for name, value in settings.grpc_options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            yield f"GRPC_OPTIONS has {name}, which the installed gRPC does not; {f'did you mean {near[0]}?' if near else 'remove it'}"
        elif name == "grpc.service_config":
            yield from (f"GRPC_OPTIONS: grpc.service_config {problem}" for problem in service_config_problems(str(value)))
