"""Zone preference. Pure: endpoints and the client's own zone in, priorities out.

gRPC's priorities have no partial spill-over: the next priority is used only when the one before has failed as a whole. Whether
the own zone has enough endpoints is therefore decided here; if not, all zones become one priority.
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
    """Whether calls should stay near `own_zone`, and by which criterion.

    `hints` if the registry has set hints on every endpoint, and at least one for this zone, as kube-proxy requires too (KEP-2433).
    `zone` if the own zone has at least half of what an even spread over the zones would give: with fewer, they would get the calls
    of a whole zone's clients and be overloaded while others are idle.
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
    """Whether an endpoint belongs to the first priority; all do if nothing is preferred."""
    if preferred == "hints":
        return own_zone in endpoint.hints
    return preferred != "zone" or endpoint.zone == own_zone
