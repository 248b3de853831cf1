"""gRPC channels that follow a registry: one call replaces grpc's own, and a target names the registry.

    channel = discovery.aio.insecure_channel("kubernetes:///service.namespace:grpc")

README.md in this folder says what to install; target.py lists the targets.
"""

from typing import TYPE_CHECKING, Any

from . import aio
from .channel import insecure_channel, secure_channel
from .config import Backoff, Config, Dns, Empty, Etcd, Kubernetes, Outliers, Remember
from .errors import (
    CertificateError,
    ControlPlaneError,
    DiscoveryError,
    NotSyncedError,
    RegistrationError,
    SourceError,
    TargetError,
)
from .snapshot import Endpoint, Health, Snapshot
from .sources.manual import Manual
from .sources.source import Source, register
from .status import Status
from .target import Target
from .target import parse as parse_target
from .tls.certificates import CertificateFiles
from .tls.diagnostics import explain_tls
from .xds.runtime import status, wait_until_synced
from .xds.service_config import service_config_problems

if TYPE_CHECKING:
    from .registration.registrar import Registrar

__all__ = [
    "Backoff",
    "CertificateError",
    "CertificateFiles",
    "Config",
    "ControlPlaneError",
    "DiscoveryError",
    "Dns",
    "Empty",
    "Endpoint",
    "Etcd",
    "Health",
    "Kubernetes",
    "Manual",
    "NotSyncedError",
    "Outliers",
    "Registrar",
    "RegistrationError",
    "Remember",
    "Snapshot",
    "Source",
    "SourceError",
    "Status",
    "Target",
    "TargetError",
    "aio",
    "explain_tls",
    "insecure_channel",
    "parse_target",
    "register",
    "secure_channel",
    "service_config_problems",
    "status",
    "wait_until_synced",
]

__version__ = "2.0.0"
"""The library's version; CHANGELOG.md in its repository describes each one."""


def __getattr__(name: str) -> Any:
    """The registrar and its etcd client are imported by the servers that use them: a tenth of this library's start."""
    if name == "Registrar":
        from .registration.registrar import Registrar

        return Registrar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
