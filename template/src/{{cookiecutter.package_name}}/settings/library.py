"""Settings in, what discovery and the typed client are constructed with out."""

from typing import Any

from ..client.channel import Keepalive, Policy, Retry
from ..discovery import Config, Dns, Empty, Etcd, Kubernetes, Outliers, Remember
from ..tls import client_files
from . import Discovery, Settings


def connection(settings: Settings) -> dict[str, Any]:
    """A typed client's arguments. Raises discovery.TargetError, tls.TlsError."""
    client = settings.client
    retry = dict(client.retry)
    outliers = Outliers(**dict(client.outliers)) if client.outliers.threshold else None
    policy = Policy(
        keepalive=Keepalive(**dict(client.keepalive)),
        retry=Retry(**retry) if retry.pop("enabled") else None,
        outliers=outliers,
        load_balancing=client.load_balancing,
        health_check=client.health_check,
        service_config=client.service_config,
    )
    return {
        "target": client.target,
        "tls": client_files(settings),
        "server_name": settings.tls.server_name,
        "timeout": client.timeout,
        "stream_timeout": client.stream_timeout,
        "config": discovery_config(settings.discovery, health_check=client.health_check, outliers=outliers),
        "policy": policy,
    }


def discovery_config(settings: Discovery, *, health_check: bool, outliers: Outliers | None = None) -> Config:
    """How discovery reads the registry. Raises discovery.TargetError for what it refuses."""
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
