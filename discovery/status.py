"""What discovery knows about a target at this moment, for health checks, metrics and people."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from .snapshot import Health, Snapshot

State = Literal["connecting", "synced", "stale", "closed"]
"""connecting: no set yet.  synced: the source is being watched.  stale: the source failed, the last set is in use."""


@dataclass(frozen=True, slots=True)
class Status:
    """One target's state. Times are `time.monotonic()` seconds; None means never.

    snapshot: the set that gRPC was given last.   problems: entries that the registry holds but that cannot be used.
    synced_at: when the source last delivered a set, equal or not.   changed_at: when gRPC was last given a new one.
    suspicious: why the newest set was not passed on, if so (see Config.empty).
    via: of a list of targets the one that counts at the moment, else empty.
    restarts: how often the watch was begun anew.   pushes: sets given to gRPC.   nacks: sets that gRPC refused.
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
        """How many endpoints are in each zone; the empty name stands for unknown."""
        return dict(Counter(endpoint.zone for endpoint in self.snapshot.endpoints)) if self.snapshot else {}

    def by_health(self) -> dict[Health, int]:
        """How many endpoints are in each state of health."""
        return dict(Counter(endpoint.health for endpoint in self.snapshot.endpoints)) if self.snapshot else {}
