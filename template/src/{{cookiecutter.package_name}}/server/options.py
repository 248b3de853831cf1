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
    options: Options = [
        ("grpc.so_reuseport", 0),  # otherwise a second server silently shares the port
        ("grpc.keepalive_time_ms", milliseconds(server.keepalive.time)),
        ("grpc.keepalive_timeout_ms", milliseconds(server.keepalive.timeout)),
        ("grpc.keepalive_permit_without_calls", int(server.keepalive.permit_without_calls)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", milliseconds(server.keepalive.min_ping_interval)),
        ("grpc.max_connection_age_ms", milliseconds(server.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", milliseconds(server.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", milliseconds(server.max_connection_idle)),
        ("grpc.server_handshake_timeout_ms", milliseconds(server.handshake_timeout)),
        ("grpc.max_receive_message_length", server.max_message_bytes),
        ("grpc.max_metadata_size", server.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", server.max_metadata_bytes * 2),
        ("grpc.http.overload_protection", int(server.overload_protection)),
    ]
    if server.max_connections is not None:
        options.append(("grpc.max_allowed_incoming_connections", server.max_connections))
    if server.max_concurrent_streams is not None:
        options.append(("grpc.max_concurrent_streams", server.max_concurrent_streams))
    return options


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
        id=registration.id,
        zone=settings.discovery.zone,
        weight=registration.weight,
        ttl=int(registration.ttl),
        config=settings.discovery.config(health_check=False),
    )
