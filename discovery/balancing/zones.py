"""Zone and node preference. Pure: endpoints and the client's own zone and node in, priorities out.

gRPC's priorities have no partial spill-over: the next priority is used only when the one before has failed as a whole. Whether
the own zone has enough endpoints is therefore decided here; if not, all zones become one priority.
"""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from ..snapshot import Endpoint, Health


class Preference(NamedTuple):
    """Which endpoints calls should go to first: those hinted for `node`, then those of `zone`, then the rest.

    An empty criterion does not apply.   hinted: what belongs to the zone is decided by hints, not by where an endpoint runs.
    """

    node: str = ""
    zone: str = ""
    hinted: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the ranks."""
        near = (*(["node"] if self.node else []), *(["own"] if self.zone else []))
        return (*near, "remote") if near else ("all",)

    def rank(self, endpoint: Endpoint) -> int:
        """The place of an endpoint's group, 0 for the first; always 0 if nothing is preferred."""
        if self.node and self.node in endpoint.node_hints:
            return 0
        near = not self.zone or (self.zone in endpoint.hints if self.hinted else endpoint.zone == self.zone)
        return bool(self.node) + (not near)


def usable(endpoints: frozenset[Endpoint]) -> frozenset[Endpoint]:
    """The endpoints that may get new requests: the ready ones, or where none is, those that still serve while they
    terminate, as kube-proxy does (KEP-1669)."""
    if all(health <= Health.HEALTHY for health in {endpoint.health for endpoint in endpoints}):
        return endpoints
    ready = frozenset(endpoint for endpoint in endpoints if endpoint.health <= Health.HEALTHY)
    return ready or frozenset(endpoint for endpoint in endpoints if endpoint.health is Health.DRAINING)


def preference(endpoints: Collection[Endpoint], own_zone: str, own_node: str = "") -> Preference:
    """By which criteria calls should stay near.

    Hints count if the registry has set them on every endpoint, and on at least one for this node or zone, as kube-proxy requires
    too (KEP-3015, KEP-2433). Without hints the own zone counts if it has at least half of what an even spread over the zones would
    give: with fewer, its endpoints would get the calls of a whole zone's clients and be overloaded while others are idle.
    """
    node = own_node if own_node and _hinted([endpoint.node_hints for endpoint in endpoints], own_node) else ""
    if not own_zone:
        return Preference(node)
    if _hinted([endpoint.hints for endpoint in endpoints], own_zone):
        return Preference(node, own_zone, hinted=True)
    count = Counter(endpoint.zone for endpoint in endpoints)
    if len(count) < 2 or count[own_zone] * len(count) * 2 < count.total():
        return Preference(node)
    return Preference(node, own_zone)


def _hinted(hints: Collection[tuple[str, ...]], own: str) -> bool:
    return all(hints) and any(own in each for each in hints)
