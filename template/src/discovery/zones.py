"""Which endpoints gRPC should take first. Pure: endpoints and the client's own zone in, priorities out.

gRPC's priorities know no partial spill: the next priority serves only when the one before has failed as a whole. So whether
the own zone is strong enough to stand alone is decided here, on numbers, and otherwise all zones become one priority.
"""

from collections import Counter
from collections.abc import Iterable

from .snapshot import Endpoint, Health


def usable(endpoints: frozenset[Endpoint]) -> frozenset[Endpoint]:
    """The endpoints that may get new requests: the ready ones, or where none is, those that still serve while they
    terminate, as kube-proxy does (KEP-1669)."""
    if all(health <= Health.HEALTHY for health in {endpoint.health for endpoint in endpoints}):
        return endpoints
    ready = frozenset(endpoint for endpoint in endpoints if endpoint.health <= Health.HEALTHY)
    return ready or frozenset(endpoint for endpoint in endpoints if endpoint.health is Health.DRAINING)


def prefers_own_zone(endpoints: Iterable[Endpoint], own_zone: str) -> bool:
    """Whether requests should stay in `own_zone`: it has at least half of what an even spread over the zones would give.

    With fewer, the few would carry a whole zone's clients and be overloaded while others idle.
    """
    if not own_zone:
        return False
    count = Counter(endpoint.zone for endpoint in endpoints)
    if len(count) < 2:
        return False
    return count[own_zone] * len(count) * 2 >= count.total()
