"""Which endpoints gRPC should take first. Pure: endpoints and the client's own zone in, priorities out.

gRPC's priorities know no partial spill: the next priority serves only when the one before has failed as a whole. So whether
the own zone is strong enough to stand alone is decided here, on numbers, and otherwise all zones become one priority.
"""

from collections import Counter
from collections.abc import Collection
from typing import Literal

from ..snapshot import Endpoint, Health

Preference = Literal["", "zone", "hints"]


def usable(endpoints: frozenset[Endpoint]) -> frozenset[Endpoint]:
    """The endpoints that may get new requests: the ready ones, or where none is, those that still serve while they
    terminate, as kube-proxy does (KEP-1669)."""
    if all(health <= Health.HEALTHY for health in {endpoint.health for endpoint in endpoints}):
        return endpoints
    ready = frozenset(endpoint for endpoint in endpoints if endpoint.health <= Health.HEALTHY)
    return ready or frozenset(endpoint for endpoint in endpoints if endpoint.health is Health.DRAINING)


def preference(endpoints: Collection[Endpoint], own_zone: str) -> Preference:
    """Whether and by what requests should stay near `own_zone`.

    `hints` where the registry has hinted every endpoint and at least one for this zone: it knows the whole cluster's load,
    as kube-proxy believes too (KEP-2433). `zone` where the own zone has at least half of what an even spread over the zones
    would give: with fewer, the few would carry a whole zone's clients and be overloaded while others idle.
    """
    if not own_zone:
        return ""
    if all(endpoint.hints for endpoint in endpoints) and any(own_zone in endpoint.hints for endpoint in endpoints):
        return "hints"
    count = Counter(endpoint.zone for endpoint in endpoints)
    if len(count) < 2 or count[own_zone] * len(count) * 2 < count.total():
        return ""
    return "zone"


def is_near(endpoint: Endpoint, own_zone: str, preferred: Preference) -> bool:
    """Whether an endpoint belongs to the first priority; all do where nothing is preferred."""
    if preferred == "hints":
        return own_zone in endpoint.hints
    return preferred != "zone" or endpoint.zone == own_zone
