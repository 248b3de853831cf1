"""The set of endpoints at one moment: endpoints in, an immutable and comparable Snapshot out."""

import enum
import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import printable


class Health(enum.IntEnum):
    """An endpoint's health, with the names and numbers of xDS (envoy.config.core.v3.HealthStatus)."""

    UNKNOWN = 0
    """Not known. Gets requests."""
    HEALTHY = 1
    """Ready. Gets requests."""
    UNHEALTHY = 2
    """Not ready. Gets no new requests; streams in progress continue."""
    DRAINING = 3
    """Serving and terminating. Gets new requests only if no endpoint is ready (KEP-1669)."""


class Endpoint(NamedTuple):
    """One server. A tuple, because sets of thousands are hashed, sorted, and compared at every change.

    address: an IPv4 or IPv6 literal, without brackets.   port: 1 to 65535.
    zone: where it runs, empty if unknown.                 weight: relative to other endpoints; 1 or more.
    name: its name in the registry (pod, key), empty if it has none; informational.
    node: the machine that it runs on, empty if unknown.   hints: the zones whose clients it should serve (KEP-2433).
    metadata: other data in the registry, as JSON; empty if none.   node_hints: the nodes whose clients it should serve (KEP-3015).
    """

    address: str
    port: int
    zone: str = ""
    weight: int = 1
    health: Health = Health.UNKNOWN
    name: str = ""
    node: str = ""
    hints: tuple[str, ...] = ()
    metadata: str = ""
    node_hints: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """`host:port` as it is written in a URI: IPv6 in brackets (RFC 3986 section 3.2.2)."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The complete set of one target at one moment, never a delta. Equal if the endpoints are equal.

    `problems` has a sentence for each entry that was skipped; it does not count for equality. Create one with `Snapshot.of`.
    """

    endpoints: frozenset[Endpoint] = frozenset()
    problems: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint], problems: Iterable[str] = (), *, last: "Snapshot | None" = None) -> "Snapshot":
        """Validate `endpoints`, and convert addresses to canonical form (RFC 5952).

        A malformed entry, or a second one with the same address and port, is skipped and becomes a problem: gRPC rejects a whole set
        for one malformed endpoint, and a typing error in a registry must not block updates of the others. Of two entries the one
        with the better health counts, then the lesser one: registries list in any order. What `last` contains is not validated
        again, so that a change among thousands is cheap.
        """
        unique = frozenset(endpoints)
        unknown = unique - last.endpoints if last is not None else unique
        skipped = list(problems)
        mended = {endpoint: mend for endpoint in unknown if (mend := _check(endpoint, skipped)) is not endpoint}
        if not mended and len({endpoint[:2] for endpoint in unique}) == len(unique):
            return cls(unique, tuple(sorted(set(map(printable, skipped)))))
        found: dict[tuple[str, int], Endpoint] = {}
        for endpoint in unique:
            good = mended.get(endpoint, endpoint)
            if good is not None and (other := found.setdefault(good[:2], good)) != good:
                found[good[:2]] = min(good, other, key=_precedence)
                skipped.append(f"endpoint {good.authority} is listed twice, with different values; only one entry counts")
        return cls(frozenset(found.values()), tuple(sorted(set(map(printable, skipped)))))

    @property
    def usable(self) -> bool:
        """Whether any endpoint may get requests."""
        return any(endpoint.health is not Health.UNHEALTHY for endpoint in self.endpoints)

    def __len__(self) -> int:
        return len(self.endpoints)


@functools.lru_cache(maxsize=16384)
def canonical_address(text: str) -> str:
    """The canonical form of an IP literal. Raises ValueError, with the reason, for anything else: gRPC's xDS takes no names."""
    if "%" in text:
        raise ValueError("an IPv6 zone index cannot be sent over xDS")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("the address is no IP literal") from None


_RANK = {Health.UNKNOWN: 0, Health.HEALTHY: 0, Health.DRAINING: 1, Health.UNHEALTHY: 2}


def _precedence(endpoint: Endpoint) -> tuple[int, Endpoint]:
    return _RANK[endpoint.health], endpoint


def _check(endpoint: Endpoint, problems: list[str]) -> Endpoint | None:
    """The endpoint itself, its canonical form, or None after adding a problem."""
    try:
        address = canonical_address(endpoint.address)
        if not 1 <= endpoint.port <= 65535:
            raise ValueError("the port must be 1 to 65535")
        if not 1 <= endpoint.weight <= 65535:
            raise ValueError(f"weight {endpoint.weight} must be 1 to 65535")
    except ValueError as error:
        problems.append(f"endpoint {endpoint.address}:{endpoint.port} is left out: {error}")
        return None
    return endpoint if address == endpoint.address else endpoint._replace(address=address)


def parse_authority(text: str) -> tuple[str, int]:
    """Split `host:port` or `[IPv6]:port`. Raises ValueError naming the text if it is neither."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text}' is not host:port; write an IPv6 address in brackets, as in [::1]:50051")
    if not (separator and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"'{text}' is not host:port with a port from 1 to 65535")
    return host, int(port)
