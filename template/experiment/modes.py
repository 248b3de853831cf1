"""The modes in which the pair is deployed, and what theory promises of each. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PUSHED = 0.25
"""Seconds from a pod's Ready condition to its first call, the median, where the registry tells of changes."""


@dataclass(frozen=True)
class Mode:
    """One mode.

    spread: `all` is every pod that is ready. `reconnect` is a new one only once a connection has broken. `one` is one pod until its
    connection breaks.   pushed: changes are told, not asked for.   lossless: no call fails while pods come and go, without retries.
    """

    name: str
    spread: Literal["all", "reconnect", "one"]
    pushed: bool = False

    @property
    def lossless(self) -> bool:
        return self.pushed

    def within(self, settings: Mapping[str, float]) -> float | None:
        """Seconds within which a pod that is ready is called; None is not at all, before something breaks."""
        if self.pushed:
            return PUSHED
        return settings["refresh"] + settings["dns_ttl"] if self.spread == "all" else None


MODES = {
    mode.name: mode
    for mode in (
        Mode("passthrough", "one"),
        Mode("native-dns", "reconnect"),
        Mode("dns", "all"),
        Mode("kubernetes", "all", pushed=True),
        Mode("etcd", "all", pushed=True),
    )
}
