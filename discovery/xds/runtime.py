"""What channels share in a process: resolvers and the control plane.

A channel acquires a `Lease` on its target and releases it when it is closed. The first lease on a target starts its source, the last
one stops it. A lease that is forgotten, with its channel, is released a minute later, because gRPC goes on with a call whose channel
is forgotten, too. This file has the library's only mutable state that is not owned by an object.

Only `acquire` and the timer's thread change the tables. `release` and finalizers leave a note for that thread (see threads.py).
"""

import atexit
import contextlib
import functools
import os
import re
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from .. import metrics
from ..config import Config
from ..errors import ControlPlaneError, TargetError
from ..resolving.failover import open_resolver
from ..resolving.publisher import Publisher
from ..resolving.threads import Guard, in_background, inside_guard, timer
from ..status import Status
from ..target import Target, parse
from . import bootstrap
from .control_plane import INTERFACE, ControlPlane
from .lease import CLOSE_WAIT, FORKED, Key, Lease, Share
from .resources import TargetResources
from .service_config import ServiceConfig

LINGER = 60.0
"""Seconds after which the source of a forgotten channel ends."""

_RETRY = 0.1
"""Seconds until a thread that could not be started is tried again, if other channels share the target."""


@dataclass
class _Shared:
    """A resolver and its channels."""

    resolver: Publisher
    leases: int = 0


@dataclass
class _Name:
    """A name in the control plane: a resolver's sets with one service config."""

    name: str
    leases: int = 0
    unsubscribe: Callable[[], None] = field(default=lambda: None)


_COPIES = f"_grpc_discovery_{INTERFACE}"
"""The name in sys.modules by which copies of this library in one process find each other."""


def _shared_plane() -> ControlPlane:
    """The control plane of this process, started by the first copy of this library: gRPC reads one bootstrap per process.

    Raises ControlPlaneError.
    """
    copies = sys.modules.setdefault(_COPIES, types.ModuleType(_COPIES))
    with copies.__dict__.setdefault("lock", threading.RLock()):
        if copies.__dict__.get("forked") == os.getpid():
            raise ControlPlaneError(FORKED)
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
        self._inherited: list[object] = []
        self._reset()

    def _reset(self) -> None:
        self._plane: ControlPlane | None = None
        self._opening = threading.RLock()  # openers wait for the one that starts the control plane
        self._guard = Guard()  # guards the tables
        self._shared: dict[Key, _Shared] = {}
        self._names: dict[Share, _Name] = {}
        self._forgotten: list[Share] = []  # changed on the timer's thread only

    def plane(self) -> ControlPlane:
        """The control plane, started and in the bootstrap. Raises ControlPlaneError."""
        if self.forked:
            raise ControlPlaneError(FORKED)
        if self._plane is None:
            bootstrap.check_greenlets()
            with self._opening:
                self._plane = self._plane or _shared_plane()
        return self._plane

    def acquire(self, key: Key, service_config: ServiceConfig) -> Lease:
        """A share in a target, whose source runs afterwards. Raises TargetError for an invalid target, ControlPlaneError if a part
        cannot be started; then nothing is left of it."""
        if self.forked:
            raise ControlPlaneError(FORKED)
        share = (key, service_config)
        opened: Publisher | None = None  # and not used
        try:
            while True:
                if opened is None and key not in self._shared:
                    opened = open_resolver(key.target, key.config, key.credentials, key.authority)  # reads files
                plane = self.plane()
                timer.start()
                with self._guard:
                    shared = self._shared.get(key)
                    if shared is None:
                        if opened is None:
                            continue  # the last share was taken back in the meantime
                        shared, opened = self._shared.setdefault(key, _Shared(opened)), None
                    name = self._names.setdefault(share, _Name(_unique_name(key.target)))
                    shared.leases += 1
                    name.leases += 1
                    first = name.leases == 1
                    break
        except RuntimeError as error:
            if self._plane is not None:
                self._plane.idle()
            raise _cannot_open(key, error) from None
        finally:
            if opened is not None:
                in_background(f"discovery closes {key.target}", opened.close)
        lease = Lease(self, share, name.name)
        try:
            if first:
                resources = TargetResources(name.name, key.config.zone, service_config, key.config.outliers, key.config.node)
                plane.add(name.name, resources, shared.resolver.refused)
                name.unsubscribe = shared.resolver.subscribe(functools.partial(_publish, plane, name.name))
            plane.ensure()
            shared.resolver.start()
        except RuntimeError as error:
            lease.close()
            timer.call_at(time.monotonic() + _RETRY, functools.partial(self._start, key))
            raise _cannot_open(key, error) from None
        return lease

    def _start(self, key: Key) -> None:
        """Start the source for those who share a target with a channel that could not be opened, if any."""
        shared = self._shared.get(key)
        if shared is not None:
            try:
                shared.resolver.start()
            except RuntimeError:
                timer.call_at(time.monotonic() + _RETRY, functools.partial(self._start, key))

    def forget(self, share: Share) -> None:
        """A finalizer's part: the share is taken back after LINGER."""
        timer.post(functools.partial(self._linger, share))

    def _linger(self, share: Share) -> None:
        self._forgotten.append(share)
        timer.call_at(time.monotonic() + LINGER, functools.partial(self._take_back_forgotten, share))

    def _take_back_forgotten(self, share: Share) -> None:
        if share in self._forgotten:
            self._forgotten.remove(share)
            self.take_back(share)

    def take_back(self, share: Share, done: "Future[None] | None" = None) -> None:
        """On the timer's thread: end what nobody has a share in any more. A source may take a while to close, so it does elsewhere."""
        ended = None if self.forked else self._without(share)

        def finish() -> None:
            try:
                if ended is not None:
                    ended.close()
            finally:
                if done is not None:
                    done.set_result(None)

        if ended is not None:
            in_background(f"discovery closes {share[0].target}", finish)
        else:
            finish()

    def _without(self, share: Share) -> Publisher | None:
        """Take one share back; returns the resolver that it was the last share in."""
        key, _ = share
        with self._guard:
            shared, name = self._shared[key], self._names[share]
            shared.leases -= 1
            name.leases -= 1
            if not name.leases:
                del self._names[share]
            if not shared.leases:
                del self._shared[key]
            idle = not self._shared
        if not name.leases:
            name.unsubscribe()
            if self._plane is not None:
                self._plane.remove(name.name)
        if idle and self._plane is not None:
            self._plane.idle()
        return shared.resolver if not shared.leases else None

    def resolver(self, target: Target, config: Config | None) -> Publisher:
        with self._guard:
            known = list(self._shared.items())
        found = [shared.resolver for key, shared in known if key.target == target and config in (None, key.config)]
        if not found:
            raise TargetError(
                f"target '{target}' has no open channel in this process; open one first, and write the target the same way"
            )
        return found[-1]

    def names(self, target: Target) -> list[str]:
        """Under which names the control plane serves a target to this process's channels."""
        with self._guard:
            return [name.name for (key, _), name in self._names.items() if key.target == target]

    def statuses(self) -> list[Status]:
        with self._guard:
            known = list(self._shared.values())
        return [shared.resolver.status for shared in known]

    def before_exit(self) -> None:
        if self._plane is not None:
            self._plane.remove_socket()

    def before_fork(self) -> None:
        """Forgotten channels do not stand in the way of a fork, nor does the control plane once all channels are closed."""
        if inside_guard() or timer.current:
            return
        if self._forgotten:
            done: Future[None] = Future()

            def flush() -> None:
                for share in list(self._forgotten):
                    self._take_back_forgotten(share)
                done.set_result(None)

            timer.post(flush)
            with contextlib.suppress(TimeoutError):
                done.result(CLOSE_WAIT)
        if self._plane is not None and not self._shared:
            self._plane.before_fork()

    def after_fork(self) -> None:
        """In the child. A lock may be held by a thread that no longer exists, so each is replaced."""
        copies = sys.modules.setdefault(_COPIES, types.ModuleType(_COPIES)).__dict__
        copies["lock"] = threading.RLock()
        if self._shared:
            self.forked = True
            copies["forked"] = os.getpid()
        # Kept forever: when gRPC frees a channel, it waits for threads that do not exist here.
        self._inherited.append((self._plane, self._shared))
        self._reset()


def _publish(plane: ControlPlane, name: str, status: Status) -> None:
    metrics.observe(process.statuses)
    if status.snapshot is not None:
        plane.publish(name, status.snapshot)


def _cannot_open(key: Key, error: RuntimeError) -> ControlPlaneError:
    if isinstance(error, ControlPlaneError):
        return error
    return ControlPlaneError(
        f"target '{key.target}' cannot be opened: {error}; raise the limit on this process's threads "
        "(ulimit -u, or a container's pids limit)"
    )


def _unique_name(target: Target) -> str:
    """A name that is recognizable in channelz and CSDS. Its end is random: a digest of the settings would help to guess a password."""
    readable = re.sub(r"[^a-z0-9.]+", "-", f"{target.scheme}.{target.name}".lower())[:60].strip("-.")
    return f"{readable}-{os.urandom(5).hex()}"


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


atexit.register(process.before_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=process.before_fork, after_in_child=process.after_fork)
