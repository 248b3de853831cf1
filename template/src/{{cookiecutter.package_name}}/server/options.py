"""Settings in; gRPC's server arguments and the registrar out."""

from typing import Any

from ..discovery import Registrar
from ..settings import Settings

Options = list[tuple[str, Any]]

INFINITE = 2**31 - 1
"""gRPC's value for infinity, in milliseconds."""


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds; None is infinity."""
    return INFINITE if seconds is None else min(INFINITE, round(seconds * 1000))


def server_options(settings: Settings) -> Options:
    """Arguments of the server."""
    server = settings.server
    options = {
        "grpc.so_reuseport": 0,  # otherwise a second server silently shares the port
        "grpc.keepalive_time_ms": milliseconds(server.keepalive.time),
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": milliseconds(server.keepalive.min_ping_interval),
        "grpc.max_connection_age_ms": milliseconds(server.max_connection_age),
        "grpc.max_connection_age_grace_ms": milliseconds(server.max_connection_age_grace),
        "grpc.max_connection_idle_ms": 900_000,
        "grpc.server_handshake_timeout_ms": 10_000,
        "grpc.max_allowed_incoming_connections": 4096,
        # Of more that have arrived and not begun, gRPC cancels whosever they are, health checks included; the limits say RESOURCE_EXHAUSTED.
        "grpc.server.max_pending_requests": 10_000,
        "grpc.server.max_pending_requests_hard_limit": 12_000,
        # Otherwise gRPC receives up to a whole message of a call that waits for its turn (discovery/calls/concurrency_limit.py).
        "grpc.http2.bdp_probe": 0,
        "grpc.max_receive_message_length": server.max_message_bytes,
        "grpc.max_metadata_size": 16 * 1024,
        "grpc.absolute_max_metadata_size": 32 * 1024,
        **settings.grpc_options,
    }
    return list(options.items())  # of two values for a name, gRPC would take the first


def registrar(settings: Settings, port: int) -> Registrar | None:
    """The registrar for a server on `port`, if the settings have one. Raises discovery.TargetError for an invalid target."""
    registration = settings.registration
    if registration.target is None:
        return None
    address = registration.address
    if address.count(":") != 1 and "]:" not in address:  # without a port
        address = f"[{address.strip('[]')}]:{port}" if ":" in address else f"{address}:{port}"
    return Registrar(
        registration.target,
        address,
        zone=settings.discovery.zone,
        weight=registration.weight,
        config=settings.discovery.config(),
    )
