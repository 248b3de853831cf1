"""The modes in which the pair is deployed, and what is promised of each. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PUSHED = 0.25
"""Seconds from a pod's Ready condition to its first call, the median, where the registry pushes changes."""


RESOLVED = 10.0
"""Seconds within which gRPC has certainly asked DNS again after a connection broke; the pair lets it ask once in 5."""
JITTER = 1.1
"""gRPC ends connections up to a tenth later than the age that is set."""


@dataclass(frozen=True)
class Mode:
    """One mode.

    spread: `all` is every pod that is ready. `reconnect` is a new one only once a connection has broken. `one` is one pod until its
    connection breaks.   pushed: the registry pushes changes, it is not polled; then no call fails while pods come and go, without retries.
    contrast: what SERVER__MAX_CONNECTION_AGE is set to at the end, to show what it does; empty where it does not matter.
    """

    name: str
    spread: Literal["all", "reconnect", "one"]
    pushed: bool = False
    contrast: str = ""

    def within(self, settings: Mapping[str, float]) -> float | None:
        """Seconds within which a pod that is ready is called; None is not at all, before something breaks."""
        if self.pushed:
            return PUSHED
        if self.spread == "reconnect":
            return settings["age"] * JITTER + RESOLVED + settings["dns_ttl"]
        return settings["refresh"] + settings["dns_ttl"] if self.spread == "all" else None


MODES = {
    mode.name: mode
    for mode in (
        Mode("passthrough", "one", contrast="30s"),
        Mode("native-dns", "reconnect", contrast="none"),
        Mode("dns", "all"),
        Mode("kubernetes", "all", pushed=True),
        Mode("etcd", "all", pushed=True),
    )
}
