"""The face that a resolver and a list of targets share: a status, and listeners that are called with every new one."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import NotSyncedError, report
from ..status import Status
from ..target import Target
from .threads import Guard, Serial

logger = logging.getLogger(__package__)

Listener = Callable[[Status], None]
"""Called with each new status, on whatever thread caused it, one at a time, while no lock is held; of several in short order perhaps
only with the last."""


class _Subscription:
    __slots__ = ("ended", "listener", "told")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.told: Status | None = None
        self.ended = False


class Publisher:
    """What a channel needs of a target. Its owner calls `start` once it is wanted, and `close` at the end."""

    def __init__(self, target: Target) -> None:
        self._guard = Guard()
        self._status = Status(str(target))
        self._subscriptions: tuple[_Subscription, ...] = ()
        self._tell = Serial(self._tell_all)

    def start(self) -> None:
        """Start watching; a second time does nothing. Raises RuntimeError if the system has no thread left."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop watching; gRPC keeps the last set. Does not wait for a request in progress."""
        raise NotImplementedError

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the threads have ended after `close`; returns whether they have."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """The state at this moment, an immutable value. Takes no lock."""
        return self._status

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the present status, and with every later one. Returns a function that unsubscribes."""
        subscription = _Subscription(listener)
        with self._guard:
            self._subscriptions += (subscription,)
        self._tell()

        def end() -> None:
            subscription.ended = True
            with self._guard:
                self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)

        return end

    def wait_until_synced(self, timeout: float) -> None:
        """Block until there is a set. Raises NotSyncedError, with the reason, after `timeout` seconds or when it is closed."""
        known = threading.Event()

        def listener(status: Status) -> None:
            if status.snapshot is not None or status.state == "closed":
                known.set()

        end = self.subscribe(listener)
        known.wait(timeout)
        end()
        if self._status.snapshot is None:
            raise self.not_synced(timeout)

    def not_synced(self, timeout: float) -> NotSyncedError:
        """The error that says why there is no set after `timeout` seconds."""
        status = self._status
        if status.state == "closed":
            return NotSyncedError(f"target '{status.target}' was closed before its first set")
        reason = status.last_error or status.suspicious or "the registry has not answered yet"
        return NotSyncedError(f"target '{status.target}' has no endpoints after {timeout:g} s: {reason}")

    def refused(self, reason: str) -> None:
        """gRPC rejected the set (an xDS NACK) and keeps the previous one."""
        with self._guard:
            self._change(nacks=self._status.nacks + 1, last_nack=reason)
        self._tell()

    def _change(self, **values: Any) -> None:
        """Set fields of the status; with the guard held, and followed by `_tell`. A closed target stays closed."""
        if self._status.state != "closed":
            self._status = replace(self._status, **values)

    def _tell_all(self) -> None:
        status = self._status
        for subscription in self._subscriptions:
            if subscription.told is not status and not subscription.ended:
                subscription.told = status
                try:
                    subscription.listener(status)
                except Exception:
                    report(logger.exception, "a listener on target '%s' raised", status.target)
