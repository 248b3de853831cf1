"""The state of a target at one moment, for readiness, metrics, and debugging."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from .snapshot import Health, Snapshot

State = Literal["connecting", "synced", "stale", "closed"]
"""connecting: no set yet.  synced: the source is read.  stale: the source failed, the last set is in use.  closed: after close."""


@dataclass(frozen=True, slots=True)
class Status:
    """One target's state. Times are `time.monotonic()` seconds; None means never.

    snapshot: the set that was sent to gRPC last.   problems: entries in the registry that cannot be used.
    synced_at: when the source last yielded a set, equal or not.   changed_at: when a new set was last sent to gRPC.
    suspicious: why the newest set was not forwarded, if so (see Config.empty).
    via: in a list of targets the one in use, else empty.
    restarts: how often the watch was restarted.   pushes: sets sent to gRPC.   nacks: sets that gRPC rejected.
    """

    target: str
    state: State = "connecting"
    snapshot: Snapshot | None = None
    problems: tuple[str, ...] = ()
    synced_at: float | None = None
    changed_at: float | None = None
    last_error: str | None = None
    suspicious: str | None = None
    restarts: int = 0
    pushes: int = 0
    nacks: int = 0
    via: str = ""
    last_nack: str | None = None

    def by_zone(self) -> dict[str, int]:
        """The number of endpoints in each zone; an empty name means unknown."""
        return dict(Counter(endpoint.zone for endpoint in self.snapshot.endpoints)) if self.snapshot else {}

    def by_health(self) -> dict[Health, int]:
        """The number of endpoints by health."""
        return dict(Counter(endpoint.health for endpoint in self.snapshot.endpoints)) if self.snapshot else {}
