"""Settings in, gRPC's channel and server arguments out."""

import json
from typing import Any

from discovery import Config, Dns, Empty, Etcd, Kubernetes, Registrar
from discovery.config import Outliers, Remember
from discovery.target import parse

from .settings import Discovery, Settings
from .settings import Outliers as OutlierSettings

Options = list[tuple[str, Any]]

INFINITE = 2**31 - 1
"""gRPC's number for never, in milliseconds."""


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds; None is never."""
    return INFINITE if seconds is None else min(INFINITE, round(seconds * 1000))


def server_options(settings: Settings) -> Options:
    """Arguments of the server."""
    server = settings.server
    options: Options = [
        ("grpc.so_reuseport", 0),  # or a second server would silently share the port
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


def channel_options(settings: Settings) -> Options:
    """Arguments of the client's channel, for every kind of target."""
    keepalive = settings.client.keepalive
    tls = settings.tls
    # Behind one address every new connection may reach another server, so it is worth while to try soon.
    first_wait = 100 if parse(settings.client.target).scheme == "passthrough" else 500
    return [
        *([("grpc.default_authority", tls.server_name)] if tls.mode != "off" and tls.server_name else []),
        ("grpc.service_config", service_config(settings)),
        ("grpc.keepalive_time_ms", milliseconds(keepalive.time)),
        ("grpc.keepalive_timeout_ms", milliseconds(keepalive.timeout)),
        ("grpc.http2.ping_timeout_ms", milliseconds(keepalive.timeout)),  # or a frozen server is noticed after 60 s
        ("grpc.keepalive_permit_without_calls", int(keepalive.permit_without_calls)),
        ("grpc.http2.max_pings_without_data", keepalive.max_pings_without_data),
        ("grpc.dns_min_time_between_resolutions_ms", 5000),  # 30 s by default
        ("grpc.initial_reconnect_backoff_ms", first_wait),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        ("grpc.enable_http_proxy", 0),  # a proxy variable in the pod would take over calls inside the cluster
    ]


def service_config(settings: Settings) -> str:
    """The service config in JSON. No timeout in it: gRPC fires it early, deadlines are set call by call.

    Raises discovery.TargetError for a target that cannot be read.
    """
    client = settings.client
    if client.service_config is not None:
        return client.service_config
    # One connection has nobody to go to instead: asked for its health, it would only fail while its server drains.
    target = parse(client.target)
    single = target.scheme == "passthrough"
    balancing: dict[str, Any] = {"pick_first" if single else client.load_balancing: {}}
    if "round_robin" in balancing and client.outliers.threshold and not target.ours:  # ours get it by xDS
        balancing = {"outlier_detection_experimental": _outlier_detection(client.outliers, balancing)}
    config: dict[str, Any] = {"loadBalancingConfig": [balancing]}
    if client.health_check and not single:
        config["healthCheckConfig"] = {"serviceName": ""}
    if client.retry.enabled:
        config["methodConfig"] = [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": client.retry.attempts,
                    "initialBackoff": f"{client.retry.initial_backoff:.3f}s",
                    "maxBackoff": f"{client.retry.max_backoff:.3f}s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": list(client.retry.status_codes),
                },
                # Three attempts pass before an address in front of all has left out a server that was killed.
                **({"waitForReady": True} if single else {}),
            }
        ]
        # With its decimal point, or gRPC reads thousandths.
        config["retryThrottling"] = {"maxTokens": client.retry.max_tokens, "tokenRatio": float(client.retry.token_ratio)}
    return json.dumps(config)


def _outlier_detection(settings: OutlierSettings, child: dict[str, Any]) -> dict[str, Any]:
    """gRPC's own balancer around `child` (gRFC A50); its name is experimental, what it does is not."""
    return {
        "interval": f"{settings.interval:.3f}s",
        "baseEjectionTime": f"{settings.ejection:.3f}s",
        "maxEjectionTime": f"{settings.max_ejection:.3f}s",
        "maxEjectionPercent": settings.max_percent,
        "failurePercentageEjection": {
            "threshold": settings.threshold,
            "enforcementPercentage": 100,
            "minimumHosts": 2,
            "requestVolume": settings.min_requests,
        },
        "childPolicy": [child],
    }


def outliers(settings: OutlierSettings) -> Outliers | None:
    """What discovery is told of servers that fail calls."""
    return Outliers(**dict(settings)) if settings.threshold else None


def discovery_config(settings: Discovery, *, health_check: bool, outliers: Outliers | None = None) -> Config:
    """What discovery is told. Raises discovery.TargetError for what it refuses."""
    return Config(
        zone=settings.zone,
        empty=Empty.parse(settings.empty) if settings.empty else None,
        health="" if health_check else None,
        outliers=outliers,
        remember=Remember(settings.remember, settings.remember_for),
        dns=Dns(refresh=settings.refresh, timeout=settings.dns_timeout, servers=settings.dns_servers),
        etcd=Etcd(**{**dict(settings.etcd), "password": settings.etcd.password.get_secret_value()}),
        kubernetes=Kubernetes(**dict(settings.kubernetes)),
    )


def registrar(settings: Settings, port: int) -> Registrar | None:
    """What keeps a server on `port` listed, where the settings want it. Raises discovery.TargetError for what cannot be."""
    registration = settings.registration
    if registration.target is None:
        return None
    address = registration.address
    if address.count(":") != 1 and "]:" not in address:  # no port with it
        address = f"[{address.strip('[]')}]:{port}" if ":" in address else f"{address}:{port}"
    return Registrar(
        registration.target,
        address,
        id=registration.id,
        zone=settings.discovery.zone,
        weight=registration.weight,
        ttl=int(registration.ttl),
        config=discovery_config(settings.discovery, health_check=False),
    )
