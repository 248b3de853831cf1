"""The empty policy: whether a snapshot may replace another. Pure: two snapshots, a policy, and a duration in, a decision out."""

from dataclasses import dataclass

from ..config import Empty
from ..snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to forward the new snapshot. `remaining`: the seconds after which, if the registry stays readable, it is accepted."""

    accepted: bool
    remaining: float | None = None


def decide(policy: Empty, last: Snapshot | None, new: Snapshot, empty_for: float) -> Decision:
    """Decide on `new`. `empty_for`: the seconds for which the registry was read and listed no usable endpoint.

    Only a set without usable endpoints after one with some is suspicious. Causes are a registry that lost its data, a mistyped
    selector of a Service, a DNS server that has just restarted, or a cluster whose API server was down for a minute: it marks every
    node, and so every pod, as not ready until the nodes have reported. Accepting such a set stops all traffic. Time during which the
    registry cannot be read proves nothing.
    """
    if new.usable or last is None or not last.usable or policy.policy == "fail":
        return Decision(True)
    if policy.policy == "keep":
        return Decision(False)
    remaining = policy.seconds - empty_for
    return Decision(remaining <= 0, max(0.0, remaining))
