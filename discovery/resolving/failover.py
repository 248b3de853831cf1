"""Fail-over between several targets of one channel: the first one that is synced is used; the next ones run only while it is not.

It has the interface of a Resolver, and owns one for each target that runs.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..config import Config
from ..errors import NotSyncedError
from ..status import Status
from ..target import Target
from ..tls.certificates import Credentials
from .resolver import Listener, Resolver, not_synced, resolver_for

PATIENCE = 2.0
"""Seconds for which a target may be out of sync before the next one is started: longer than a short restart of a registry."""


class Failover:
    """Follows the first of `targets` that is synced. While none is, the last set stays in use.

    build: creates the resolver of one target, given a function to call when its state changes.
    """

    def __init__(
        self,
        target: Target,
        targets: Sequence[Target],
        build: Callable[[Target, Callable[[], None]], Resolver],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._targets = targets
        self._build = build
        self._patience = patience
        self._running: list[Resolver] = []  # of the first targets, in order; owned by the thread
        self._active = 0
        self._unsynced_since: list[float] = []
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._changed = threading.Condition()  # guards the two below
        self._status = Status(str(target))
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._run, name=f"discovery failover {target}", daemon=True)
        self._begin()  # an invalid target is rejected now

    @property
    def status(self) -> Status:
        """The status of the target in use; `via` names it, `last_error` says why it is not the first."""
        with self._changed:
            return self._status

    def start(self) -> None:
        """Start with the first target. Called once."""
        self._thread.start()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """As Resolver.subscribe."""
        with self._changed:
            self._listeners.append(listener)
            if self._status.snapshot is not None:
                listener(self._status.snapshot)

        def end() -> None:
            with self._changed:
                self._listeners.remove(listener)

        return end

    def wait_until_synced(self, timeout: float) -> None:
        """As Resolver.wait_until_synced."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.snapshot is not None or self._closing.is_set(), timeout)
            if self._status.snapshot is None:
                raise self.not_synced(timeout)

    def not_synced(self, timeout: float) -> NotSyncedError:
        """As Resolver.not_synced."""
        return not_synced(self.status, timeout)

    def refused(self, reason: str) -> None:
        """As Resolver.refused."""
        with self._changed:
            self._status = replace(self._status, nacks=self._status.nacks + 1, last_nack=reason)

    def close(self) -> None:
        """Stop everything; gRPC keeps the last set."""
        self._closing.set()
        self._wake.set()
        with self._changed:
            self._status = replace(self._status, state="closed")
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """As Resolver.join."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the thread ----

    def _run(self) -> None:
        self._running[0].start()
        while not self._closing.is_set():
            self._wake.clear()
            statuses = [resolver.status for resolver in self._running]
            self._choose(statuses)
            due = self._note_sync(statuses[: len(self._running)])
            if due is not None and due <= 0 and len(self._running) < len(self._targets):
                self._begin()
                self._running[-1].start()
                continue
            self._wake.wait(due if due and due > 0 else None)
        for resolver in self._running:
            resolver.close()

    def _begin(self) -> None:
        self._running.append(self._build(self._targets[len(self._running)], self._wake.set))
        self._unsynced_since.append(time.monotonic())

    def _note_sync(self, statuses: list[Status]) -> float | None:
        """Seconds until the last running target has been out of sync for too long; None while it is synced."""
        now = time.monotonic()
        for index, status in enumerate(statuses):
            if status.state == "synced":
                self._unsynced_since[index] = now
        if statuses[-1].state == "synced":
            return None
        if statuses[-1].snapshot is None and statuses[-1].last_error:
            return 0.0  # it has never been synced, so do not wait
        return self._unsynced_since[-1] + self._patience - now

    def _choose(self, statuses: list[Status]) -> None:
        """Use the first target that is synced, and stop those after it."""
        synced = [index for index, status in enumerate(statuses) if status.state == "synced" and status.snapshot is not None]
        self._active = synced[0] if synced else min(self._active, len(statuses) - 1)
        if synced:
            for resolver in self._running[self._active + 1 :]:
                resolver.close()
            del self._running[self._active + 1 :], self._unsynced_since[self._active + 1 :]
        active = statuses[self._active]
        errors = [status.last_error for status in statuses[: self._active + 1] if status.last_error]
        with self._changed:
            if self._closing.is_set():
                return
            before = self._status
            moved = active.snapshot is not None and active.snapshot != before.snapshot
            self._status = replace(
                active,
                target=before.target,
                via=active.target,
                snapshot=active.snapshot if active.snapshot is not None else before.snapshot,
                last_error=errors[0] if errors else None,
                pushes=before.pushes + moved,
                nacks=before.nacks,
                last_nack=before.last_nack,
            )
            if moved and active.snapshot is not None:
                for listener in self._listeners:
                    listener(active.snapshot)
            self._changed.notify_all()


def open_resolver(
    target: Target, config: Config, credentials: Credentials | None = None, authority: str = ""
) -> Resolver | Failover:
    """The resolver or fail-over of a target, not started. Otherwise as resolver_for."""

    def build(choice: Target, on_state: Callable[[], None]) -> Resolver:
        return resolver_for(choice, config, credentials, authority or target.authority, on_state)

    return Failover(target, target.choices, build) if target.choices else build(target, lambda: None)
