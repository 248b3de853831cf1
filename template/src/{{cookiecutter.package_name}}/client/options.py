"""Settings in, the typed client's arguments out."""

from typing import Any

from ..discovery import Outliers
from ..settings import Settings
from ..settings.library import discovery_config
from ..tls import client_files
from .channel import Keepalive, Policy, Retry


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
