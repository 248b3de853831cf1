"""gRPC channels that always know who serves: one call in the place of grpc's own, one target that names the registry.

    channel = discovery.aio.insecure_channel("kubernetes:///service.namespace:grpc")

README.md beside this file says what to copy and what to install; target.py lists the targets.
"""

from . import aio
from .certificates import CertificateFiles
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
from .lifetime import status, wait_until_synced
from .registrar import Registrar
from .snapshot import Endpoint, Health, Snapshot
from .sources.manual import Manual
from .status import Status

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
