"""A list of targets on one channel: the first one that is synced is used; the next ones run only while it is not."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..config import Config
from ..errors import DiscoveryError
from ..status import Status
from ..target import Target
from ..tls.certificates import Credentials
from .publisher import Publisher
from .resolver import resolver_for
from .threads import Alarm, Serial, in_background

PATIENCE = 2.0
"""Seconds for which a target may be out of sync before the next one is started: longer than a short restart of a registry. Also the
time between two attempts to open a target that cannot be opened, such as one without its library."""


@dataclass
class _Choice:
    """One target of the list while it runs."""

    target: Target
    resolver: Publisher | None = None
    error: str = ""
    unsynced_since: float | None = None
    retry_at: float = 0.0
    unsubscribe: Callable[[], None] = field(default=lambda: None)

    @property
    def status(self) -> Status:
        if self.resolver is None:
            return Status(str(self.target), last_error=self.error)
        return self.resolver.status


class Failover(Publisher):
    """Publishes the status of the target in use; `via` names it, `last_error` says why it is not the first.

    build: creates the resolver of one target.

    Each target of the list is in one of these states; any new status, and the end of a wait, calls `_judge`, which reads them all.

    | state       | means                                                     | consequence                                     |
    |-------------|-----------------------------------------------------------|-------------------------------------------------|
    | not started | the ones before it have not been out of sync for PATIENCE | none                                            |
    | serving     | synced, with a usable set that is not suspicious          | the first of these is used, later ones end      |
    | empty       | synced, but without a usable set, or a suspicious one     | stays in use, never replaces what another serves |
    | out of sync | no set yet, or the registry cannot be read                | after PATIENCE, or at once if it never had a set, the next one starts |
    | broken      | cannot be opened                                          | the next one starts at once; tried again        |
    """

    def __init__(
        self, target: Target, targets: Sequence[Target], build: Callable[[Target], Publisher], *, patience: float = PATIENCE
    ) -> None:
        super().__init__(target)
        self._targets = targets
        self._build = build
        self._patience = patience
        self._started = self._closed = False
        self._judge = Serial(self._judge_now)
        self._alarm = Alarm(self._judge)
        self._ended: list[Publisher] = []
        # Used by `_judge_now` only, which never runs twice at a time; the first target is opened now, to be rejected if it is invalid.
        self._running = [_Choice(targets[0], build(targets[0]))]
        self._active = 0

    def start(self) -> None:
        with self._guard:
            if self._started or self._closed:
                return
            self._started = True
        first, resolver = self._running[0], self._running[0].resolver
        assert resolver is not None  # opened by the constructor
        try:
            resolver.start()
        except RuntimeError:
            self._started = False
            raise
        first.unsubscribe = resolver.subscribe(self._on_status)

    def close(self) -> None:
        self._closed = True
        with self._guard:
            self._change(state="closed")
        self._judge()
        self._tell()

    def join(self, timeout: float) -> bool:
        return all([resolver.join(timeout) for resolver in self._ended])

    def _on_status(self, status: Status) -> None:
        self._judge()

    def _judge_now(self) -> None:
        if self._closed:
            return self._end(0)
        now = time.monotonic()
        for choice in self._running:
            if choice.resolver is None and choice.retry_at <= now:
                self._begin(choice, now)
        statuses = [choice.status for choice in self._running]
        for choice, status in zip(self._running, statuses, strict=True):
            if status.state == "synced":
                choice.unsynced_since = None
            elif choice.unsynced_since is None:
                choice.unsynced_since = now
        self._active = self._chosen(statuses)
        if statuses[self._active].state == "synced" and statuses[self._active].snapshot is not None:
            self._end(self._active + 1)
            statuses = statuses[: self._active + 1]
        self._publish(statuses)
        self._start_next(statuses[-1], now)

    def _chosen(self, statuses: list[Status]) -> int:
        synced = [index for index, status in enumerate(statuses) if status.state == "synced" and status.snapshot is not None]
        for index in synced:
            snapshot = statuses[index].snapshot
            if snapshot is not None and snapshot.usable and not statuses[index].suspicious:
                return index
        last = self._status.snapshot
        if synced and (last is None or not last.usable):
            return synced[0]
        return min(self._active, len(statuses) - 1)

    def _publish(self, statuses: list[Status]) -> None:
        active = statuses[self._active]
        errors = [status.last_error for status in statuses if status.last_error]
        with self._guard:
            before = self._status
            snapshot = before.snapshot if active.snapshot is None else active.snapshot
            moved = snapshot is not before.snapshot and snapshot != before.snapshot
            self._change(
                state=active.state,
                via=active.target,
                snapshot=snapshot if moved else before.snapshot,
                problems=active.problems,
                synced_at=active.synced_at,
                changed_at=active.changed_at,
                last_error=errors[0] if errors else None,
                suspicious=active.suspicious,
                restarts=active.restarts,
                pushes=before.pushes + moved,
            )
        self._tell()

    def _start_next(self, last: Status, now: float) -> None:
        """Start the next target if the last running one has been out of sync for long enough, or be called again when it has."""
        choice = self._running[-1]
        due = [each.retry_at for each in self._running if each.resolver is None]
        if choice.unsynced_since is not None and len(self._running) < len(self._targets):
            never = last.snapshot is None and last.last_error  # it has never been synced, so do not wait
            start_at = now if never else choice.unsynced_since + self._patience
            if start_at <= now:
                self._running.append(_Choice(self._targets[len(self._running)]))
                self._judge()  # runs once more, and opens it
                return
            due.append(start_at)
        if due:
            self._alarm.at(min(due))

    def _begin(self, choice: _Choice, now: float) -> None:
        """Open and start a target; what hinders it is told in its status, and tried again."""
        try:
            resolver = self._build(choice.target)
            resolver.start()
        except (DiscoveryError, RuntimeError, OSError) as error:
            choice.error, choice.retry_at = str(error), now + self._patience
            return
        choice.resolver, choice.error = resolver, ""
        choice.unsubscribe = resolver.subscribe(self._on_status)

    def _end(self, first: int) -> None:
        """Close the targets from index `first` on."""
        for choice in self._running[first:]:
            choice.unsubscribe()
            if choice.resolver is not None:
                in_background(f"discovery closes {choice.target}", choice.resolver.close)
                self._ended = [*(each for each in self._ended if not each.join(0)), choice.resolver]
        del self._running[first:]


def open_resolver(target: Target, config: Config, credentials: Credentials | None = None, authority: str = "") -> Publisher:
    """The resolver of a target or of a list of them, not started. Raises TargetError as resolver_for does."""

    def build(choice: Target) -> Publisher:
        return resolver_for(choice, config, credentials, authority or target.authority)

    return Failover(target, target.choices, build) if target.choices else build(target)
