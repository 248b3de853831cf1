"""How a large set is split into parts that gRPC rebuilds one at a time. Pure: endpoints in, the part of each out.

At every change gRPC rebuilds the balancer of the whole cluster, so the price of one change grows with the set. Split over
weighted clusters it grows with the part. The price of splitting: a cluster is chosen once per RPC, so while every endpoint
of a part is dead but still listed its share of RPCs fails. So parts are large, mixed by a hash, and small sets stay whole.
"""

import functools
import zlib

WHOLE = 64
"""Sets up to this size are not split."""

SMALLEST_PART = 12
"""Endpoints in a part, at least about: that so many, mixed by a hash, die together while others live is unlikely."""


def part_count(size: int, current: int = 1) -> int:
    """Into how many parts a set of `size` belongs, a power of two; `current` stays while it is wrong by a factor of two only.

    About as many parts as endpoints in a part, because a change costs one part's rebuilding and a walk past the others.
    Another count moves nearly every endpoint to another part, so a set that hovers around a bound must not flap.
    """
    if size <= WHOLE and (current == 1 or size <= WHOLE // 2):
        return 1
    best = min(_power_of_two(size**0.5) * 2, _power_of_two(size / SMALLEST_PART))
    return current if current > 1 and best / 2 <= current <= best * 2 else best


def _power_of_two(number: float) -> int:
    """The largest that is not larger."""
    return 1 << int(number).bit_length() - 1


@functools.lru_cache(maxsize=16384)
def part_of(address: str, port: int, count: int) -> int:
    """The part of one endpoint: the same in every process and at every time, and independent of its neighbours."""
    return zlib.crc32(f"{address}/{port}".encode()) & (count - 1)
