"""A source in, accepted snapshots out: the only retry loop, coalescing, the empty policy, and the status."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from .. import metrics
from ..config import Config
from ..errors import NotSyncedError, SourceError
from ..snapshot import Snapshot
from ..sources.source import Source, open_source
from ..status import Status
from ..target import Target
from ..tls.certificates import Credentials
from .backoff import BackoffTimer
from .empty_policy import decide
from .health import HealthMonitor
from .snapshot_cache import SnapshotCache

logger = logging.getLogger(__package__)

Listener = Callable[[Snapshot], None]
"""Called with every accepted snapshot, on a thread of the resolver, one at a time; must not block or call back."""

MINIMAL_WAIT = 0.01
"""The minimum of seconds between two attempts, whatever the jitter, so that a broken source does not spin."""

NEVER = float("inf")


class Resolver:
    """Runs one source on a thread of its own until `close`, and calls its listeners with every accepted set.

    The first change is forwarded immediately; further ones within `config.coalesce` seconds come as one snapshot. A set equal to the
    last one is not forwarded. When the source fails, the last set stays in use, and the source is restarted with exponential backoff
    and jitter, which is reset once a watch has lasted as long as the maximum delay. `clock` and `jitter` (low, high -> seconds) are
    for tests.
    """

    def __init__(
        self,
        target: Target,
        source: Source,
        config: Config,
        *,
        monitor: HealthMonitor | None = None,
        on_state: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._source = source
        self._config = config
        self._on_state = on_state
        self._empty = config.empty or source.empty
        self._monitor = monitor
        self._cache = SnapshotCache(config.remember, str(target)) if config.remember.directory else None
        self._keep_at = NEVER  # when the set is written to the cache next
        self._clock = clock
        self._jitter = jitter
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards everything below
        self._status = Status(str(target))
        self._listeners: list[Listener] = []
        self._received: Snapshot | None = None  # the registry's latest set
        self._empty_since = 0.0
        self._dirty = False
        self._dirty_since = 0.0
        self._not_before = 0.0
        self._threads = [
            threading.Thread(target=work, name=f"discovery {name} {target}", daemon=True)
            for name, work in (("source", self._read), ("settle", self._settle_later))
        ]

    # ---- for owners ----

    @property
    def status(self) -> Status:
        """The state at this moment, an immutable value."""
        with self._changed:
            return self._status

    def start(self) -> None:
        """Start watching. Called once."""
        if self._monitor is not None:
            self._monitor.start(self.reconsider)
        for thread in self._threads:
            thread.start()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the current set, if there is one, and with every later one. Returns a function that unsubscribes."""
        with self._changed:
            self._listeners.append(listener)
            if self._status.snapshot is not None:
                listener(self._status.snapshot)

        def end() -> None:
            with self._changed:
                self._listeners.remove(listener)

        return end

    def wait_until_synced(self, timeout: float) -> None:
        """Block until a first set was forwarded. Raises NotSyncedError, with the reason, after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.snapshot is not None or self._closing.is_set(), timeout)
            if self._status.snapshot is None:
                raise self.not_synced(timeout)

    def not_synced(self, timeout: float) -> NotSyncedError:
        """The error that says why there is no set after `timeout` seconds."""
        return not_synced(self.status, timeout)

    def refused(self, reason: str) -> None:
        """gRPC rejected the set (an xDS NACK) and keeps the previous one."""
        with self._changed:
            self._status = replace(self._status, nacks=self._status.nacks + 1, last_nack=reason)

    def close(self) -> None:
        """Stop the source and the threads; gRPC keeps the last set. Does not wait for a request in progress."""
        self._closing.set()
        self._source.close()
        if self._monitor is not None:
            self._monitor.close()
        with self._changed:
            self._status = replace(self._status, state="closed")
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the threads of a closed resolver have ended; returns whether they have."""
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    # ---- the source's thread ----

    def _read(self) -> None:
        backoff = BackoffTimer(self._config.backoff, self._clock, self._jitter)
        while not self._closing.is_set():
            backoff.begin()
            retry_after = 0.0
            try:
                for snapshot in self._source.watch():
                    self._receive(snapshot)
                reason = None
            except SourceError as error:
                reason, retry_after = str(error), error.retry_after or 0.0
            except Exception as error:  # a bug in the source must neither end the thread nor go unnoticed
                logger.exception("the source of target '%s' has a bug", self._status.target)
                reason = f"the source has a bug: {type(error).__name__}: {error}"
            if self._closing.is_set():
                return
            self._fail(reason)
            self._closing.wait(max(retry_after, MINIMAL_WAIT, backoff.end()))

    def _receive(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if self._monitor is not None:
            self._monitor.update(snapshot)
        with self._changed:
            if self._closing.is_set():
                return
            if snapshot.problems != self._status.problems:
                for problem in set(snapshot.problems) - set(self._status.problems):
                    logger.warning("target '%s': %s", self._status.target, problem)
            if self._status.state == "stale":
                logger.info("target '%s': the source has recovered", self._status.target)
            if self._received is None or self._received.usable:
                self._empty_since = now
            self._received = snapshot
            self._status = replace(self._status, state="synced", synced_at=now, last_error=None, problems=snapshot.problems)
            if snapshot.usable:
                self._status = replace(self._status, suspicious=None)
        self.reconsider()
        self._on_state()

    def _fail(self, reason: str | None) -> None:
        if self._cache is not None and self.status.snapshot is None and (known := self._cache.read()):
            logger.warning("target '%s': starting with the last known good set of %d", self._status.target, len(known))
            if self._monitor is not None:
                self._monitor.update(known)
            with self._changed:
                self._received = known
            self.reconsider()
        with self._changed:
            if reason is not None and reason != self._status.last_error:
                kept = "the last set stays in use" if self._status.snapshot else "there is no set yet"
                logger.warning("target '%s': %s; %s", self._status.target, reason, kept)
            state = self._status.state if reason is None else "connecting" if self._received is None else "stale"
            self._status = replace(
                self._status, state=state, last_error=reason or self._status.last_error, restarts=self._status.restarts + 1
            )
            self._changed.notify_all()
        self._on_state()

    # ---- forwarding ----

    def reconsider(self) -> None:
        """Something may have changed, in the registry or in an endpoint's health: forward it, now or when it is time."""
        with self._changed:
            if not self._dirty:
                self._dirty, self._dirty_since = True, self._clock()
            self._settle()
            self._changed.notify_all()

    def _settle(self) -> float | None:
        """Forward the last set if it is new, accepted, and due. Returns when to check again, None for never; lock held."""
        if not self._dirty or self._received is None or self._closing.is_set():
            return None
        now = self._clock()
        if now < self._not_before:
            return self._not_before
        received, last = self._received, self._status.snapshot
        # The empty policy applies to the registry's set, not to the results of health checks.
        decision = decide(self._empty, last, received, self._empty_since, now)
        new = received if self._monitor is None else self._monitor.apply(received)
        if not decision.accepted:
            if self._status.suspicious is None:
                said = f"none of its {len(received)} endpoints as ready" if received else "no endpoint any more"
                suspicious = f"the registry lists {said}; policy '{self._empty.policy}' keeps the last {len(last or new)}"
                logger.warning("target '%s': %s", self._status.target, suspicious)
                self._status = replace(self._status, suspicious=suspicious)
            return decision.ask_again
        self._dirty = False
        if new == last:
            return None
        self._not_before = now + self._config.coalesce
        self._status = replace(self._status, snapshot=new, changed_at=now, suspicious=None, pushes=self._status.pushes + 1)
        self._keep_at = now if self._cache is not None else NEVER
        for listener in self._listeners:
            listener(new)
        metrics.record_lag(self._status.target, self._clock() - self._dirty_since)
        self._changed.notify_all()
        return None

    def _settle_later(self) -> None:
        while not self._closing.is_set():
            keep: Snapshot | None = None
            with self._changed:
                due = self._settle()
                now = self._clock()
                if self._cache is not None and now >= self._keep_at:
                    # While the source is read, the set is current, however long ago it changed.
                    keep = self._received if self._status.state == "synced" else None
                    self._keep_at = now + self._config.remember.max_age / 10
                else:
                    wake = min(self._keep_at if due is None else due, self._keep_at)
                    self._changed.wait(None if wake == NEVER else max(0.0, wake - now))
            if keep is not None and self._cache is not None:
                self._cache.write(keep)


def resolver_for(
    target: Target,
    config: Config,
    credentials: Credentials | None,
    authority: str,
    on_state: Callable[[], None],
) -> Resolver:
    """The resolver of one target, with its source and, if the registry does not report health, a health monitor.

    `credentials` and `authority` are for the health checks. Raises TargetError as open_source does.
    """
    source = open_source(target, config)
    monitor = None
    if not source.knows_health and config.health is not None:
        monitor = HealthMonitor(config.health, config.backoff, credentials, authority)
    return Resolver(target, source, config, monitor=monitor, on_state=on_state)


def not_synced(status: Status, timeout: float) -> NotSyncedError:
    """The error that says why a target in this state has no set after `timeout` seconds."""
    if status.state == "closed":
        return NotSyncedError(f"target '{status.target}' was closed before its first set")
    reason = status.last_error or status.suspicious or "the registry has not answered yet"
    return NotSyncedError(f"target '{status.target}' has no endpoints after {timeout:g} s: {reason}")
