"""What channels share in a process: resolvers and the control plane.

A channel acquires a `Lease` on its target and releases it when it is closed or garbage-collected. The first lease on a target starts
its source, the last one stops it. This file has the library's only mutable state that is not owned by an object.
"""

import atexit
import hashlib
import logging
import os
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from .. import metrics
from ..config import Config
from ..errors import ControlPlaneError, TargetError
from ..resolving.failover import Failover, open_resolver
from ..resolving.resolver import Resolver
from ..status import Status
from ..target import Target, parse
from ..tls.certificates import Credentials
from . import bootstrap
from .control_plane import INTERFACE, ControlPlane
from .resources import AUTHORITY, TargetResources
from .service_config import ServiceConfig

logger = logging.getLogger(__package__)


@dataclass(frozen=True)
class Key:
    """What channels that share a resolver have in common."""

    target: Target
    config: Config
    credentials: Credentials | None = field(default=None, compare=False)
    """How endpoints are health-checked; not compared, because credentials have no equality."""
    authority: str = field(default="", compare=False)
    """The name that certificates must carry."""
    secure: bool = False


@dataclass
class _Shared:
    resolver: Resolver | Failover
    leases: int = 0


class Lease:
    """A share in a target. `uri` is what the channel is opened on."""

    def __init__(self, process: "_Process", key: Key, name: str) -> None:
        self.uri = f"xds://{AUTHORITY}/{name}"
        self._process = process
        self._release = weakref.finalize(self, process.release, key, name)
        self._release.atexit = False

    @property
    def forked(self) -> bool:
        """Whether this process was forked while channels were open: gRPC must not be used then."""
        return self._process.forked

    def check(self) -> None:
        """Raises ControlPlaneError in a process that was forked while channels were open."""
        if self._process.forked:
            raise ControlPlaneError(_FORKED)

    def release(self) -> None:
        """Release the share; a second time does nothing."""
        self._release()


_FORKED = (
    "this process was forked from one with open discovery channels, and gRPC cannot go on after that: "
    "start processes with spawn, or fork before the first channel is opened, or close every channel before the fork"
)


_COPIES = f"_grpc_discovery_{INTERFACE}"
"""The name in sys.modules by which copies of this library in one process find each other."""


def _shared_plane() -> ControlPlane:
    """The control plane of this process, started by the first copy of this library: gRPC reads one bootstrap per process.

    Raises ControlPlaneError.
    """
    copies = sys.modules.setdefault(_COPIES, types.ModuleType(_COPIES))
    with copies.__dict__.setdefault("lock", threading.Lock()):
        if copies.__dict__.get("forked") == os.getpid():
            raise ControlPlaneError(_FORKED)
        if copies.__dict__.get("process") != os.getpid():
            plane = ControlPlane()
            try:
                bootstrap.merge(os.environ, plane.server_uri)
            except ControlPlaneError:
                plane.close()
                raise
            copies.__dict__.update(process=os.getpid(), plane=plane)
        found: ControlPlane = copies.__dict__["plane"]
        return found


class _Process:
    def __init__(self) -> None:
        self.forked = False
        self._lock = threading.RLock()
        self._plane: ControlPlane | None = None
        self._shared: dict[Key, _Shared] = {}
        self._names: dict[str, int] = {}
        self._subscriptions: dict[str, Callable[[], None]] = {}

    def plane(self) -> ControlPlane:
        """The control plane, started and in the bootstrap."""
        with self._lock:
            if self.forked:
                raise ControlPlaneError(_FORKED)
            if self._plane is None:
                self._plane = _shared_plane()
            return self._plane

    def acquire(self, key: Key, service_config: ServiceConfig) -> Lease:
        with self._lock:
            plane = self.plane()
            name = _name(key, service_config)
            shared = self._shared.get(key)
            if shared is None:
                resolver = open_resolver(key.target, key.config, key.credentials, key.authority)
                shared = self._shared[key] = _Shared(resolver)
                resolver.start()
            shared.leases += 1
            self._names[name] = self._names.get(name, 0) + 1
            if self._names[name] == 1:
                plane.add(
                    name,
                    TargetResources(name, key.config.zone, service_config, key.config.outliers, key.config.node),
                    shared.resolver.refused,
                )
                self._subscriptions[name] = shared.resolver.subscribe(lambda snapshot: plane.publish(name, snapshot))
            return Lease(self, key, name)

    def release(self, key: Key, name: str) -> None:
        if self.forked:
            return
        with self._lock:
            shared = self._shared[key]
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]
                self._subscriptions.pop(name)()
                if self._plane is not None:
                    self._plane.remove(name)
            shared.leases -= 1
            if not shared.leases:
                del self._shared[key]
                shared.resolver.close()

    def resolver(self, target: Target, config: Config | None) -> Resolver | Failover:
        with self._lock:
            found = [
                shared.resolver for key, shared in self._shared.items() if key.target == target and config in (None, key.config)
            ]
        if not found:
            raise TargetError(
                f"target '{target}' has no open channel in this process; open one first, and write the target the same way"
            )
        return found[-1]

    def statuses(self) -> list[Status]:
        with self._lock:
            return [shared.resolver.status for shared in self._shared.values()]

    def before_exit(self) -> None:
        if self._plane is not None:
            self._plane.remove_socket()

    def after_fork(self) -> None:
        """In the child. The lock may be held by a thread that no longer exists, so it is replaced."""
        self._lock = threading.RLock()
        copies = sys.modules.setdefault(_COPIES, types.ModuleType(_COPIES)).__dict__
        copies["lock"] = threading.Lock()
        if self._shared:
            self.forked = True
            copies["forked"] = os.getpid()
        self._plane = None
        self._shared, self._names, self._subscriptions = {}, {}, {}


def _name(key: Key, service_config: ServiceConfig) -> str:
    """A unique name that is recognizable in channelz and CSDS."""
    readable = re.sub(r"[^a-z0-9.]+", "-", f"{key.target.scheme}.{key.target.name}".lower())[:60].strip("-.")
    # asdict, because a password is not part of a repr.
    digest = hashlib.sha256(repr((__package__, key.target, asdict(key.config), key.secure, service_config)).encode()).hexdigest()[
        :10
    ]
    return f"{readable}-{digest}"


process = _Process()
"""This process's own."""


def status(target: str, *, config: Config | None = None) -> Status:
    """The status of a target with an open channel in this process; pass `config` if channels on it have different ones.

    Raises TargetError if no channel is open on it.
    """
    return process.resolver(parse(target), config).status


def wait_until_synced(target: str, timeout: float, *, config: Config | None = None) -> None:
    """Block until the first set of a target with an open channel was sent to gRPC; for readiness.

    Raises NotSyncedError with the reason after `timeout` seconds, TargetError if no channel is open on it.
    """
    process.resolver(parse(target), config).wait_until_synced(timeout)


metrics.observe(process.statuses)
atexit.register(process.before_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.after_fork)
