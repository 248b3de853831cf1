"""A channel's share in a target.

Releasing it takes no lock, because a finalizer or a signal handler may do it: it leaves a note for the timer's thread.
"""

import functools
import logging
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from ..config import Config
from ..errors import ControlPlaneError, report
from ..resolving.threads import inside_guard, timer
from ..target import Target
from ..tls.certificates import Credentials
from .resources import AUTHORITY
from .service_config import ServiceConfig

logger = logging.getLogger(__package__)

CLOSE_WAIT = 2.0
"""The maximum of seconds for which `Lease.close` waits until the lease was taken back."""

FORKED = (
    "this process was forked from one with open discovery channels, and gRPC cannot go on after that: "
    "start processes with spawn, or fork before the first channel is opened, or close every channel before the fork"
)


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


Share = tuple[Key, ServiceConfig]


class Tables(Protocol):
    """Who owns the shares."""

    forked: bool

    def forget(self, share: Share) -> None:
        """A finalizer's part: takes no lock."""

    def take_back(self, share: Share, done: "Future[None] | None" = None) -> None:
        """Called on the timer's thread."""


class Lease:
    """A share in a target. `uri` is what the channel is opened on."""

    __slots__ = ("__weakref__", "_finalizer", "_share", "_tables", "uri")

    def __init__(self, tables: Tables, share: Share, name: str) -> None:
        self.uri = f"xds://{AUTHORITY}/{name}"
        self._tables = tables
        self._share = share
        self._finalizer = weakref.finalize(self, tables.forget, share)
        self._finalizer.atexit = False

    @property
    def forked(self) -> bool:
        """Whether this process was forked while channels were open: gRPC must not be used then."""
        return self._tables.forked

    def check(self) -> None:
        """Raises ControlPlaneError in a process that was forked while channels were open."""
        if self._tables.forked:
            raise ControlPlaneError(FORKED)

    def release(self) -> "Future[None]":
        """Release the share; a second time does nothing. The future is done once it was taken back. Takes no lock."""
        done: Future[None] = Future()
        if self._finalizer.detach() is None or self._tables.forked:
            done.set_result(None)
        else:
            timer.post(functools.partial(self._tables.take_back, self._share, done))
        return done

    def close(self) -> None:
        """Release the share, and wait until it was taken back, so that a fork is possible afterwards. A thread that was interrupted by
        a finalizer or a signal handler while it had something of this library in hand does not wait."""
        done = self.release()
        if not inside_guard() and not timer.current:
            try:
                done.result(CLOSE_WAIT)
            except TimeoutError:
                report(logger.warning, "the last channel of a target is still being closed after %g s", CLOSE_WAIT)
