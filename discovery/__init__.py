"""gRPC channels that always know who serves: one call in the place of grpc's own, one target that names the registry.

    channel = discovery.aio.insecure_channel("kubernetes:///service.namespace:grpc")

README.md beside this file says what to copy and what to install; target.py lists the targets.
"""

from . import aio
from .channel import insecure_channel, secure_channel
from .config import Backoff, Config, Dns, Empty, Etcd, Kubernetes, Outliers
from .errors import (
    CertificateError,
    ControlPlaneError,
    DiscoveryError,
    NotSyncedError,
    RegistrationError,
    SourceError,
    TargetError,
)
from .registration.registrar import Registrar
from .snapshot import Endpoint, Health, Snapshot
from .sources.manual import Manual
from .status import Status
from .tls.certificates import CertificateFiles
from .xds.runtime import status, wait_until_synced

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
    "Snapshot",
    "SourceError",
    "Status",
    "TargetError",
    "aio",
    "insecure_channel",
    "secure_channel",
    "status",
    "wait_until_synced",
]

__version__ = "2.0.0"
"""Of the library; CHANGELOG.md of its repository says what each version brought."""
