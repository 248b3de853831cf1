"""Sharding: a large set is split into parts that gRPC rebuilds one at a time. Endpoints in, the part of each out.

At every change gRPC rebuilds the balancer of the whole cluster, so the cost of a change grows with the set. Split over weighted
clusters, it grows with the part. The drawback: a cluster is chosen once per RPC, so while every endpoint of a part is dead but
still listed, the part's share of RPCs fails. Parts are therefore large and mixed, and small sets are not split.
"""

from collections.abc import Iterable

from ..snapshot import Endpoint

WHOLE = 64
"""Sets up to this size are not split."""

SMALLEST_PART = 12
"""The approximate minimum of endpoints in a part: so many, mixed, are unlikely to die together while others live."""


def part_count(size: int, current: int = 1) -> int:
    """The number of parts for a set of `size`, a power of two; `current` is kept while it is off by at most a factor of two.

    About as many parts as endpoints in a part, because a change costs rebuilding one part and iterating over the others. A
    different number moves almost every endpoint to another part, so a set whose size is near a bound must not flap.
    """
    if size <= WHOLE and (current == 1 or size <= WHOLE // 2):
        return 1
    best = min(_power_of_two(size**0.5) * 2, _power_of_two(size / SMALLEST_PART))
    return current if current > 1 and best / 2 <= current <= best * 2 else best


def _power_of_two(number: float) -> int:
    """The largest power of two that is not larger."""
    return 1 << int(number).bit_length() - 1


class Parts:
    """Which endpoint is in which part. An endpoint stays in its part while it is listed, and a new one takes the place of a removed
    one, so that a replaced server changes one part. Not thread-safe.
    """

    def __init__(self) -> None:
        self.held: list[frozenset[Endpoint]] = [frozenset()]
        self._where: dict[tuple[str, int], int] = {}

    def deal(self, endpoints: Iterable[Endpoint], count: int) -> None:
        """Spread all endpoints over `count` parts: those of each zone, and neighbors in it, over all parts."""
        dealt = sorted(endpoints, key=lambda endpoint: (endpoint.zone, endpoint.address, endpoint.port))
        self.held = [frozenset(dealt[part::count]) for part in range(count)]
        self._where = {endpoint[:2]: part for part, held in enumerate(self.held) for endpoint in held}

    def change(self, added: Iterable[Endpoint], removed: Iterable[Endpoint]) -> set[int]:
        """Apply a change; returns the parts that it affects."""
        held: dict[int, set[Endpoint]] = {}

        def part(number: int) -> set[Endpoint]:
            return held.setdefault(number, set(self.held[number]))

        gone = {endpoint[:2] for endpoint in removed} - {endpoint[:2] for endpoint in added}
        for endpoint in removed:
            part(self._where[endpoint[:2]]).discard(endpoint)
        for key in gone:
            del self._where[key]
        sizes = [len(held.get(number, known)) for number, known in enumerate(self.held)]
        for endpoint in added:
            number = self._where.get(endpoint[:2], -1)
            if number < 0:
                number = self._where[endpoint[:2]] = min(range(len(sizes)), key=sizes.__getitem__)
                sizes[number] += 1
            part(number).add(endpoint)
        while min(sizes) * 2 * len(sizes) < sum(sizes) - len(sizes):  # too small to be safe alone
            least, most = sizes.index(min(sizes)), sizes.index(max(sizes))
            moved = min(part(most))
            part(most).discard(moved)
            part(least).add(moved)
            self._where[moved[:2]] = least
            sizes[least] += 1
            sizes[most] -= 1
        for number, endpoints in held.items():
            self.held[number] = frozenset(endpoints)
        return set(held)
