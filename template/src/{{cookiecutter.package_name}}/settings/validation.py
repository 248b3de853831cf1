"""Combinations of settings that cannot work: for each, one sentence with the names, the values, and what to change.

gRPC itself does not report most of them: it disconnects, ignores them, or loses calls later, under load. Settings of the other side are
compared only where they are set here: what they are there, only that side knows.
"""

import difflib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc

from ..discovery import service_config_problems
from .types import text

if TYPE_CHECKING:
    from .settings import Settings

SLACK = 5.0
"""Seconds that a pod needs in addition to its drain: signals, the last export of telemetry, the interpreter's exit."""
BASE_MEMORY, MEMORY_PER_BYTE = 96 * 1024 * 1024, 7
"""The bytes of memory that a server needs without a call, and for each byte in flight: gRPC's buffers, the message, its objects."""

SETTING_OF = {
    "server": {
        "grpc.keepalive_time_ms": "SERVER__KEEPALIVE__TIME",
        "grpc.http2.min_ping_interval_without_data_ms": "SERVER__KEEPALIVE__MIN_PING_INTERVAL",
        "grpc.max_connection_age_ms": "SERVER__MAX_CONNECTION_AGE",
        "grpc.max_connection_age_grace_ms": "SERVER__MAX_CONNECTION_AGE_GRACE",
        "grpc.max_receive_message_length": "SERVER__MAX_MESSAGE_BYTES",
    },
    "client": {
        "grpc.keepalive_time_ms": "CLIENT__KEEPALIVE__TIME",
        "grpc.keepalive_timeout_ms": "CLIENT__KEEPALIVE__TIMEOUT",
    },
}
"""gRPC's options that have a setting of their own, against which other settings are checked."""


def wrong_options(settings: "Settings", role: str) -> Iterator[str]:
    """A sentence for each of gRPC's options that a server or client (`role`) has a setting for."""
    for name, setting in SETTING_OF.get(role, {}).items():
        if name in settings.grpc_options:
            yield f"GRPC_OPTIONS has {name}; set {setting} instead"


def contradictions(settings: "Settings") -> Iterator[str]:
    """A sentence for each combination that cannot work."""
    yield from (each.sentence for each in _both_sides(settings) if each.server_set and each.client_set)
    yield from _server(settings)
    yield from _registry(settings)
    yield from _tls(settings)
    yield from _grpc_options(settings)


def warnings(settings: "Settings") -> Iterator[str]:
    """A sentence for each value that works only with a value of the other side that is not its default."""
    yield from (each.sentence for each in _both_sides(settings) if each.server_set != each.client_set)
    server, client = settings.server, settings.client
    if {"max_connection_age"} <= server.model_fields_set and {"stream_timeout"} <= client.model_fields_set:
        longest = (server.max_connection_age or float("inf")) + server.max_connection_age_grace
        if client.stream_timeout > longest:
            yield (
                f"CLIENT__STREAM_TIMEOUT={text(client.stream_timeout)} is longer than SERVER__MAX_CONNECTION_AGE and "
                f"SERVER__MAX_CONNECTION_AGE_GRACE together, so streams end with UNAVAILABLE after at most {text(longest)}; let clients resume"
            )


class _Pair(NamedTuple):
    """Two values, of the server and of its clients, that cannot work together."""

    server_set: bool
    client_set: bool
    sentence: str


def _both_sides(settings: "Settings") -> Iterator[_Pair]:
    server, client = settings.server, settings.client
    least = 2 * server.keepalive.min_ping_interval
    if client.keepalive.time < least:
        yield _Pair(
            "min_ping_interval" in server.keepalive.model_fields_set,
            "time" in client.keepalive.model_fields_set,
            f"SERVER__KEEPALIVE__MIN_PING_INTERVAL={text(server.keepalive.min_ping_interval)} closes the connections of clients with "
            f"CLIENT__KEEPALIVE__TIME={text(client.keepalive.time)} (too_many_pings); raise the second to {text(least)} in every client, or lower the first",
        )
    if server.max_connection_age is not None and server.max_connection_age_grace < client.timeout:
        yield _Pair(
            "max_connection_age_grace" in server.model_fields_set,
            "timeout" in client.model_fields_set,
            f"SERVER__MAX_CONNECTION_AGE_GRACE={text(server.max_connection_age_grace)} cancels calls with CLIENT__TIMEOUT={text(client.timeout)} "
            f"on an old connection; raise the first to {text(client.timeout)} or lower the second",
        )


def _server(settings: "Settings") -> Iterator[str]:
    server, drain = settings.server, settings.server.drain
    needed = drain.wait + drain.grace + SLACK
    if drain.termination_grace is not None and needed > drain.termination_grace:
        yield (
            f"SERVER__DRAIN__WAIT={text(drain.wait)} and SERVER__DRAIN__GRACE={text(drain.grace)} with {text(SLACK)} to spare need {text(needed)}, "
            f"but SERVER__DRAIN__TERMINATION_GRACE={text(drain.termination_grace)} kills the pod earlier; raise the last, in the pod too, or lower the others"
        )
    if server.max_bytes_in_flight < server.max_message_bytes:
        yield (
            f"SERVER__MAX_BYTES_IN_FLIGHT={server.max_bytes_in_flight} is less than SERVER__MAX_MESSAGE_BYTES={server.max_message_bytes}, "
            "so the largest requests would always be rejected; raise the first or lower the second"
        )
    memory = BASE_MEMORY + MEMORY_PER_BYTE * server.max_bytes_in_flight
    if server.memory_limit is not None and memory > server.memory_limit:
        fits = max(0, server.memory_limit - BASE_MEMORY) // MEMORY_PER_BYTE
        yield (
            f"SERVER__MAX_BYTES_IN_FLIGHT={server.max_bytes_in_flight} needs up to {memory} bytes of memory, "
            f"more than SERVER__MEMORY_LIMIT={server.memory_limit}; raise the container's limit, or lower the first to at most {fits}"
        )


def _registry(settings: "Settings") -> Iterator[str]:
    registration = settings.registration
    if registration.target is not None and not registration.address:
        yield (
            f"REGISTRATION__TARGET={registration.target} with REGISTRATION__ADDRESS empty registers no address; "
            "set the second to the IP address under which clients reach this server (in a pod: status.podIP), or the first to none"
        )


def _tls(settings: "Settings") -> Iterator[str]:
    tls, mode = settings.tls, f"TLS__MODE={settings.tls.mode}"
    empty = [f"TLS__{name.upper()}" for name in ("certificate", "key", "ca") if not getattr(tls, name)]
    if tls.mode == "mtls" and empty:
        yield f"{mode} with {' and '.join(empty)} empty: both sides present a certificate and check the other's; set PEM files, such as TLS__CA=/etc/tls/ca.crt"
    if tls.mode == "tls" and bool(tls.certificate) != bool(tls.key):
        yield f"{mode} with TLS__CERTIFICATE={tls.certificate or 'empty'} and TLS__KEY={tls.key or 'empty'}: a server needs both, a client neither"
    if tls.mode == "off" and len(empty) < 3:
        yield f"{mode} ignores the files of TLS__CERTIFICATE, TLS__KEY and TLS__CA and sends plaintext; set the first to tls or mtls, or clear the others"
    if tls.allowed_clients is not None:
        if tls.mode != "mtls":
            yield f"TLS__ALLOWED_CLIENTS with {mode} would reject every call, because no client presents a certificate; set the second to mtls, or remove the first"
        rules = tls.allowed_clients if isinstance(tls.allowed_clients, dict) else {"*": tls.allowed_clients}
        if not rules or rules == {"*": ()}:
            yield 'TLS__ALLOWED_CLIENTS is empty and would reject every call; name clients, as in ["spiffe://cluster.local/ns/default/sa/client"], or set it to none'
        for method, names in rules.items():
            yield from (f"TLS__ALLOWED_CLIENTS has {problem}" for name in names if (problem := _wrong_name(method, name)))


def _wrong_name(method: str, name: str) -> str:
    if not name.strip() or name != name.strip():
        return f"'{name}' for '{method}', which is no name; write a DNS name or a URI of the client's certificate"
    if "*" in name and not ("://" in name and name.endswith("/*") and name.count("*") == 1):
        return f"'{name}' for '{method}'; a star may stand only at the end of a URI, as in spiffe://cluster.local/ns/default/*"
    return ""


def _grpc_options(settings: "Settings") -> Iterator[str]:
    if not settings.grpc_options:
        return
    # gRPC ignores a name that it does not have, and has no list of those that it has but its own text.
    library = Path(importlib.import_module("grpc._cython.cygrpc").__file__ or "").read_bytes()
    known = {name.decode() for name in re.findall(rb"(?<![\w.])grpc\.[A-Za-z0-9_.]*[A-Za-z0-9](?![\w.])", library)}
    for name, value in settings.grpc_options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            yield f"GRPC_OPTIONS has {name}, which gRPC {grpc.__version__} does not have" + (
                f"; did you mean {near[0]}?" if near else "; remove it"
            )
        elif name == "grpc.service_config":
            yield from (f"GRPC_OPTIONS grpc.service_config {problem}" for problem in service_config_problems(str(value)))
        elif isinstance(value, str) and value.strip("-").isdigit():
            yield f"GRPC_OPTIONS has {name} with the text '{value}', which gRPC ignores; write the number without quotes"
