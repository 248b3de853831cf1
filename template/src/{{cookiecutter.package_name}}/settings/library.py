"""How discovery reads the registry: settings in, `discovery.Config` out."""

from ..discovery import Config, Dns, Empty, Etcd, Kubernetes, Outliers, Remember
from . import Discovery


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
