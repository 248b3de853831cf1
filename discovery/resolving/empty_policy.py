"""May this snapshot replace that one? Pure: two snapshots, a policy and the time in, a decision out."""

from dataclasses import dataclass

from ..config import Empty
from ..snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to pass the new snapshot on; `ask_again` is the time (on the caller's clock) at which the answer may change."""

    accepted: bool
    ask_again: float | None = None


def decide(policy: Empty, last: Snapshot | None, new: Snapshot, empty_since: float, now: float) -> Decision:
    """Decide on `new`, which has been the registry's word since `empty_since` if nobody in it may get requests.

    Only such a set after one with usable endpoints is suspicious: a registry that lost its data, a Service whose selector was
    mistyped and a DNS server that has just been restarted look like that, as does a cluster whose API server was away for a
    minute: it counts every node, and so every pod, as not ready until the nodes have reported. Believing them stops all traffic.
    """
    if new.usable or last is None or not last.usable or policy.policy == "fail":
        return Decision(True)
    if policy.policy == "keep":
        return Decision(False)
    until = empty_since + policy.seconds
    return Decision(now >= until, until)
