"""Combinations of settings that cannot work: for each, one sentence with the names, the values, and what to change.

gRPC itself does not report most of them: it disconnects, ignores them, or loses calls later, under load.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..discovery import TargetError, parse_target, service_config_problems
from .durations import text

if TYPE_CHECKING:
    from .sources import Settings

SLACK = 5.0
"""Seconds that a pod needs in addition to its drain: signals, the last export of telemetry, the interpreter's exit."""

_CODES = {"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def check(settings: "Settings") -> None:
    """Raises ValueError with a sentence for each contradiction, a line each."""
    found = [
        *_keepalive(settings),
        *_age(settings),
        *_drain(settings),
        *_calls(settings),
        *_target(settings),
        *_registration(settings),
        *_tls(settings),
        *_service_config(settings),
    ]
    if found:
        raise ValueError("\n".join(found))


def _keepalive(settings: "Settings") -> Iterator[str]:
    client, server = settings.client.keepalive, settings.server.keepalive
    if client.time < 2 * server.min_ping_interval:
        yield (
            f"CLIENT__KEEPALIVE__TIME={text(client.time)} is less than twice SERVER__KEEPALIVE__MIN_PING_INTERVAL={text(server.min_ping_interval)}, "
            f"so the server would close the client's connections; raise the first to {text(2 * server.min_ping_interval)} or lower the second"
        )
    if client.permit_without_calls and not server.permit_without_calls:
        yield (
            "CLIENT__KEEPALIVE__PERMIT_WITHOUT_CALLS=true while SERVER__KEEPALIVE__PERMIT_WITHOUT_CALLS=false, "
            "so the server would close connections of idle clients; set both to the same value"
        )
    if client.time < 60 and client.max_pings_without_data != 0:
        yield (
            f"CLIENT__KEEPALIVE__TIME={text(client.time)} has no effect with CLIENT__KEEPALIVE__MAX_PINGS_WITHOUT_DATA={client.max_pings_without_data}, "
            "after which gRPC pings once a minute; set the second to 0 or the first to 60s or more"
        )


def _age(settings: "Settings") -> Iterator[str]:
    server, client = settings.server, settings.client
    if server.max_connection_age is None:
        return
    age = f"SERVER__MAX_CONNECTION_AGE={text(server.max_connection_age)}"
    if server.max_connection_age_grace is None:
        yield f"{age} with SERVER__MAX_CONNECTION_AGE_GRACE=none keeps an old connection forever; set the second to a time such as 30s"
    elif server.max_connection_age_grace < client.timeout:
        yield (
            f"SERVER__MAX_CONNECTION_AGE_GRACE={text(server.max_connection_age_grace)} is shorter than CLIENT__TIMEOUT={text(client.timeout)}, "
            f"so calls would be canceled; raise the first to {text(client.timeout)} or lower the second"
        )


def _drain(settings: "Settings") -> Iterator[str]:
    drain = settings.server.drain
    needed = drain.pre_stop + drain.wait + drain.grace + SLACK
    if needed > drain.termination_grace:
        yield (
            f"SERVER__DRAIN__PRE_STOP={text(drain.pre_stop)}, SERVER__DRAIN__WAIT={text(drain.wait)} and SERVER__DRAIN__GRACE={text(drain.grace)} with {text(SLACK)} "
            f"to spare need {text(needed)}, but SERVER__DRAIN__TERMINATION_GRACE={text(drain.termination_grace)} kills the pod earlier; "
            "raise the last, in the pod too, or lower the others"
        )


def _calls(settings: "Settings") -> Iterator[str]:
    client, server = settings.client, settings.server
    if client.retry.enabled and not 2 <= client.retry.attempts <= 5:
        yield (
            f"CLIENT__RETRY__ATTEMPTS={client.retry.attempts} with CLIENT__RETRY__ENABLED=true is invalid: gRPC allows 2 to 5; "
            "change the first, or set the second to false"
        )
    for code in client.retry.status_codes:
        if client.retry.enabled and code not in _CODES:
            yield f"CLIENT__RETRY__STATUS_CODES holds '{code}' with CLIENT__RETRY__ENABLED=true; gRPC retries on {', '.join(sorted(_CODES))}: write one of these"
    if client.retry.initial_backoff > client.retry.max_backoff:
        yield (
            f"CLIENT__RETRY__INITIAL_BACKOFF={text(client.retry.initial_backoff)} is longer than CLIENT__RETRY__MAX_BACKOFF={text(client.retry.max_backoff)}; "
            "lower the first or raise the second"
        )
    if client.outliers.max_ejection < client.outliers.ejection:
        yield (
            f"CLIENT__OUTLIERS__MAX_EJECTION={text(client.outliers.max_ejection)} is shorter than CLIENT__OUTLIERS__EJECTION={text(client.outliers.ejection)}; "
            "raise the first or lower the second"
        )
    if server.max_concurrent_streams is not None and server.overload_protection:
        yield (
            f"SERVER__MAX_CONCURRENT_STREAMS={server.max_concurrent_streams} with SERVER__OVERLOAD_PROTECTION=true rejects calls instead of queueing them; "
            "set the second to false or the first to none"
        )
    if client.health_check and client.load_balancing == "pick_first":
        yield (
            "CLIENT__HEALTH_CHECK=true has no effect with CLIENT__LOAD_BALANCING=pick_first, which ignores health; "
            "set the first to false or the second to round_robin"
        )


def _target(settings: "Settings") -> Iterator[str]:
    try:
        parse_target(settings.client.target)
    except TargetError as error:
        yield f"CLIENT__TARGET={settings.client.target} cannot be used: {error}"


def _registration(settings: "Settings") -> Iterator[str]:
    registration = settings.registration
    if registration.target is not None and not registration.address:
        yield (
            f"REGISTRATION__TARGET={registration.target} with REGISTRATION__ADDRESS empty registers no address; "
            "set the second to the IP address under which they reach this server (in a pod: status.podIP), or the first to none"
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


def _service_config(settings: "Settings") -> Iterator[str]:
    if settings.client.service_config is not None:
        yield from (f"CLIENT__SERVICE_CONFIG {problem}" for problem in service_config_problems(settings.client.service_config))
