"""A source in, accepted snapshots out: the only retry loop, coalescing, the empty policy, and the status."""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable

from .. import metrics
from ..config import Config
from ..errors import SourceError, printable, report
from ..snapshot import Snapshot
from ..sources.source import Source, open_source
from ..target import Target
from ..tls.certificates import Credentials
from .backoff import BackoffTimer
from .empty_policy import Decision, decide
from .health import HealthMonitor
from .publisher import Publisher
from .snapshot_cache import CacheWriter
from .threads import Alarm, Serial, timer

logger = logging.getLogger(__package__)

MINIMAL_WAIT = 0.01
"""The minimum of seconds between two attempts, whatever the jitter, so that a broken source does not spin."""


class Resolver(Publisher):
    """Runs one source on a thread of its own until `close`, and publishes every accepted set.

    The first set and a change after a pause are forwarded immediately; further changes within `config.coalesce` seconds come as one
    snapshot. A set equal to the last one is not forwarded. When the source fails, the last set stays in use, and the source is
    restarted with exponential backoff and jitter, which is reset once a watch has lasted as long as the maximum delay. `clock` and
    `jitter` (low, high -> seconds) are for tests.

    | state      | the source yields a set | it fails                      | it ends normally | close  |
    |------------|-------------------------|-------------------------------|------------------|--------|
    | connecting | synced                  | connecting; if cached, stale  | connecting       | closed |
    | synced     | synced                  | stale                         | synced           | closed |
    | stale      | synced                  | stale                         | stale            | closed |
    | closed     | closed                  | closed                        | closed           | closed |

    A set that was yielded waits for the end of `coalesce` and for the empty policy's consent; whatever makes it due calls `_forward`.
    """

    def __init__(
        self,
        target: Target,
        source: Source,
        config: Config,
        *,
        monitor: HealthMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(target)
        self._source = source
        self._config = config
        self._empty = config.empty or source.empty
        self._monitor = monitor
        self._clock = clock
        self._jitter = jitter
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._begin: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._cache: CacheWriter | None = None
        if config.remember.directory:
            self._cache = CacheWriter(config.remember, str(target), lambda: source.registry, lambda: self._current)
        # Guarded:
        self._received: Snapshot | None = None  # the registry's latest set
        self._changed_since: float | None = None  # when the oldest change that is not forwarded was received
        self._empty_before = 0.0  # seconds without a usable endpoint, before the registry could not be read
        self._empty_since: float | None = None  # and since when again
        self._not_before = 0.0
        self._forward = Serial(self._forward_now)
        self._alarm = Alarm(self._forward)

    def start(self) -> None:
        with self._guard:
            if self._thread is not None or self._closing.is_set():
                return
            self._thread = thread = threading.Thread(
                target=self._run, name=f"discovery source {self._status.target}", daemon=True
            )
        if self._monitor is not None:
            self._monitor.start(self.reconsider)
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise
        # The source may begin with an import that leaves this thread little time to open its channel, so it begins a moment later.
        timer.call_at(0.0, lambda: self._begin.put(None))

    def close(self) -> None:
        self._closing.set()
        self._begin.put(None)
        with self._guard:
            self._change(state="closed")
        self._tell()
        if self._monitor is not None:
            self._monitor.close()
        if self._cache is not None:
            self._cache.close()
        self._source.close()  # last, because it may be the program's own, and raise

    def join(self, timeout: float) -> bool:
        threads = (self._thread, self._cache.thread if self._cache is not None else None)
        for thread in threads:
            if thread is not None:
                thread.join(timeout)
        return not any(thread is not None and thread.is_alive() for thread in threads)

    # ---- the source's thread ----

    def _run(self) -> None:
        self._begin.get()
        backoff = BackoffTimer(self._config.backoff, self._clock, self._jitter)
        while not self._closing.is_set():
            backoff.begin()
            reason, retry_after = None, 0.0
            try:
                for snapshot in self._source.watch():
                    self._receive(snapshot)
            except SourceError as error:
                reason, retry_after = str(error), error.retry_after or 0.0
            except BaseException as error:  # whatever a source does must neither end the thread nor go unnoticed
                reason = printable(f"the source has a bug: {type(error).__name__}: {error}")
                if reason != self._status.last_error:
                    report(logger.exception, "the source of target '%s' has a bug", self._status.target)
            if self._closing.is_set():
                return
            self._fail(reason)
            self._closing.wait(max(retry_after, MINIMAL_WAIT, backoff.end()))

    def _receive(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if self._monitor is not None:
            self._monitor.update(snapshot)
        with self._guard:
            before = self._status
            if snapshot.usable:
                self._empty_before, self._empty_since = 0.0, None
            elif self._empty_since is None:
                self._empty_since = now
            if self._changed_since is None or (before.suspicious and snapshot != self._received):
                self._changed_since = now
            self._received = snapshot
            suspicious = None if snapshot.usable else before.suspicious
            self._change(state="synced", synced_at=now, last_error=None, problems=snapshot.problems, suspicious=suspicious)
        if before.state == "stale":
            report(logger.info, "target '%s': the source has recovered", before.target)
        for problem in snapshot.problems if snapshot.problems != before.problems else ():
            if problem not in before.problems:
                report(logger.warning, "target '%s': %s", before.target, problem)
        self._forward()
        self._tell()

    def _fail(self, reason: str | None) -> None:
        if self._received is None and self._cache is not None and (known := self._cache.read()):
            report(logger.warning, "target '%s': starting with the last known good set of %d", self._status.target, len(known))
            if self._monitor is not None:
                self._monitor.update(known)
            with self._guard:
                self._received, self._changed_since = known, self._clock()
            self._forward()
        with self._guard:
            before = self._status
            if reason is not None and self._empty_since is not None:
                self._empty_before += self._clock() - self._empty_since
                self._empty_since = None
            state = before.state if reason is None else "connecting" if self._received is None else "stale"
            self._change(state=state, last_error=reason or before.last_error, restarts=before.restarts + 1)
            shown = self._status.last_error
        if reason is not None and shown != before.last_error:
            kept = "the last set stays in use" if before.snapshot else "there is no set yet"
            report(logger.warning, "target '%s': %s; %s", before.target, shown, kept)
        self._tell()

    # ---- forwarding ----

    def reconsider(self) -> None:
        """An endpoint's health may have changed: forward it, now or when it is time."""
        with self._guard:
            if self._changed_since is None:
                self._changed_since = self._clock()
        self._forward()

    def _forward_now(self) -> None:
        """Forward the latest set if it is new, accepted, and due; otherwise at its time."""
        now = self._clock()
        with self._guard:
            received, since, last = self._received, self._changed_since, self._status.snapshot
            empty_for = self._empty_before + now - self._empty_since if self._empty_since is not None else 0.0
        if received is None or since is None or self._closing.is_set():
            return
        if now < self._not_before:
            self._alarm.at(time.monotonic() + self._not_before - now)
            return
        # The empty policy applies to the registry's set, not to the results of health checks.
        decision = decide(self._empty, last, received, empty_for)
        new = received if self._monitor is None else self._monitor.apply(received)
        if not decision.accepted:
            self._refuse(received, last or new, decision)
            return
        with self._guard:
            if self._received is not received:
                return  # a newer one is about to be forwarded
            self._changed_since = None
            if new == last or self._closing.is_set():
                return
            # The first set opens no window: the change after it is a first one, too.
            self._not_before = now if last is None else now + self._config.coalesce
            self._change(snapshot=new, changed_at=now, suspicious=None, pushes=self._status.pushes + 1)
        self._tell()
        metrics.record_lag(self._status.target, self._clock() - since)
        if self._cache is not None:
            self._cache.wake()

    def _refuse(self, received: Snapshot, kept: Snapshot, decision: Decision) -> None:
        if self._status.suspicious is None:
            said = f"none of its {len(received)} endpoints as ready" if received else "no endpoint any more"
            suspicious = f"the registry lists {said}; policy '{self._empty.policy}' keeps the last {len(kept)}"
            report(logger.warning, "target '%s': %s", self._status.target, suspicious)
            with self._guard:
                self._change(suspicious=suspicious)
            self._tell()
        if decision.remaining is not None and self._empty_since is not None:
            self._alarm.at(time.monotonic() + decision.remaining)

    @property
    def _current(self) -> Snapshot | None:
        """The registry's set while it is read, however long ago it changed: what the cache keeps."""
        return self._received if self._status.state == "synced" else None


def resolver_for(target: Target, config: Config, credentials: Credentials | None, authority: str) -> Resolver:
    """The resolver of one target, with its source and, if the registry does not report health, a health monitor.

    `credentials` and `authority` are for the health checks. Raises TargetError as open_source does.
    """
    source = open_source(target, config)
    monitor = None
    if not source.knows_health and config.health is not None:
        monitor = HealthMonitor(config.health, config.backoff, credentials, authority)
    return Resolver(target, source, config, monitor=monitor)
