"""The empty policy: whether a snapshot may replace another. Pure: two snapshots, a policy, and the time in, a decision out."""

from dataclasses import dataclass

from ..config import Empty
from ..snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to forward the new snapshot; `ask_again` is the time (on the caller's clock) at which the decision may change."""

    accepted: bool
    ask_again: float | None = None


def decide(policy: Empty, last: Snapshot | None, new: Snapshot, empty_since: float, now: float) -> Decision:
    """Decide on `new`. `empty_since`: since when the registry has listed no usable endpoint, if so.

    Only a set without usable endpoints after one with some is suspicious. Causes are a registry that lost its data, a mistyped
    selector of a Service, a DNS server that has just restarted, or a cluster whose API server was down for a minute: it marks every
    node, and so every pod, as not ready until the nodes have reported. Accepting such a set stops all traffic.
    """
    if new.usable or last is None or not last.usable or policy.policy == "fail":
        return Decision(True)
    if policy.policy == "keep":
        return Decision(False)
    until = empty_since + policy.seconds
    return Decision(now >= until, until)
