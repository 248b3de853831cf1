"""EndpointSlices in (JSON of discovery.k8s.io/v1), endpoints out. Pure; the rules are those of the API's reference.

A Service's endpoints are spread over several slices, each with its own ports, and an endpoint may be in two slices while it is
being moved.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...snapshot import Endpoint, Health

USUAL_PORT = "grpc"
"""The default port if a target names none and the Service has several."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice's data about the wanted port."""

    entries: tuple[tuple[str, Endpoint], ...] = ()
    """Endpoints, each with its target reference (a pod), if it has one."""
    ipv6: bool = False
    problems: tuple[str, ...] = ()
    other_ports: tuple[str, ...] = ()
    """The existing ports, if the wanted one is not among them."""
    port: int = 0
    parsed: Mapping[bytes, tuple[str, Endpoint]] = field(default_factory=dict, compare=False, repr=False)
    """The entries by their JSON, as far as `event` has left it as it was."""


_FIRST, _NEXT, _AFTER = b'"endpoints":[{"addresses":', b'},{"addresses":', b'}],"ports":'
"""How the API server writes endpoints. None of these can be part of a string in JSON, where quotes are escaped."""


def event(line: bytes) -> tuple[str, Any]:
    """One event of a watch: its type and its object, in which each endpoint is left as JSON if it can be cut out.

    Decoding a slice of a thousand endpoints costs 3 ms, although one of them has changed. Raises ValueError, TypeError or LookupError.
    """
    head, begin, rest = line.partition(_FIRST)
    listed, end, tail = rest.rpartition(_AFTER)
    if not begin or not end:
        content = json.loads(line)
        return content["type"], content["object"]
    content = json.loads(b'%s"endpoints":[],"ports":%s' % (head, tail))
    content["object"]["endpoints"] = [b'{"addresses":%s}' % item for item in listed.split(_NEXT)]
    return content["type"], content["object"]


def read(content: Any, wanted: str, last: Slice | None = None) -> Slice:
    """Parse one EndpointSlice; `wanted` is a port's name or number, or empty. Malformed data becomes a problem.

    What `event` has left as JSON is decoded only if it is not the same in `last`, the version of the slice before.
    """
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        return Slice(problems=("an EndpointSlice without metadata is left out",))
    name = content["metadata"].get("name")
    kind = content.get("addressType")
    listed = content.get("endpoints") or ()
    if kind not in ("IPv4", "IPv6"):
        return Slice(problems=(f"EndpointSlice '{name}' is left out: addresses of type {kind!r} cannot be sent over xDS",))
    if not isinstance(listed, (list, tuple)):
        return Slice(problems=(f"EndpointSlice '{name}' is left out: its endpoints are no list",))
    if not listed:
        return Slice()
    ports = content.get("ports") or ()
    if not isinstance(ports, (list, tuple)):
        return Slice(problems=(f"EndpointSlice '{name}' is left out: its ports are no list",))
    port, others = _port(ports, wanted)
    if port is None:
        return Slice(other_ports=others or ("none",))
    known = last.parsed if last is not None and last.port == port else {}
    parsed: dict[bytes, tuple[str, Endpoint]] = {}
    entries: list[tuple[str, Endpoint]] = []
    problems: list[str] = []
    for item in listed:
        try:
            if type(item) is not bytes:
                entries.append(_entry(item, port))
                continue
            parsed[item] = entry = known.get(item) or _entry(json.loads(item), port)
            entries.append(entry)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            problems.append(f"EndpointSlice '{name}': an endpoint is left out: {type(error).__name__}: {error}")
    return Slice(tuple(entries), kind == "IPv6", tuple(problems), port=port, parsed=parsed)


def merge(slices: Iterable[Slice]) -> tuple[list[Endpoint], list[str]]:
    """All slices of a Service as one set. A pod with both families counts by its IPv4 address: two endpoints would double its share."""
    ordered = sorted(slices, key=lambda part: part.ipv6)
    both = bool(ordered) and ordered[-1].ipv6 and not ordered[0].ipv6
    by_ipv4: set[str] = {identity for part in ordered if not part.ipv6 for identity, _ in part.entries} if both else set()
    found: dict[tuple[str, int], Endpoint] = {}
    for part in ordered:
        for identity, endpoint in part.entries:
            if part.ipv6 and identity and identity in by_ipv4:
                continue
            known = found.setdefault(endpoint[:2], endpoint)
            if known is not endpoint:  # one slice may be older than the other; their order says nothing
                found[endpoint[:2]] = min(known, endpoint, key=lambda each: (_PREFERENCE[each.health], each))
    return list(found.values()), [problem for part in ordered for problem in part.problems]


_PREFERENCE = {Health.HEALTHY: 0, Health.UNKNOWN: 1, Health.DRAINING: 2, Health.UNHEALTHY: 3}


def _port(ports: Any, wanted: str) -> tuple[int | None, tuple[str, ...]]:
    """The port's number in this slice, or None and the existing ports."""
    listed = [port for port in ports if isinstance(port, dict) and port.get("protocol", "TCP") == "TCP"]
    if wanted.isdigit():
        numbers = [port.get("port") for port in listed]
        # A slice without ports, or with one without a number, means all ports.
        if not numbers or None in numbers or int(wanted) in numbers:
            return int(wanted), ()
    elif not wanted and len(listed) == 1 and isinstance(listed[0].get("port"), int):
        return int(listed[0]["port"]), ()
    for port in listed:
        if (port.get("name") or "") == (wanted or USUAL_PORT) and isinstance(port.get("port"), int):
            return int(port["port"]), ()
    return None, tuple(sorted({f"{port.get('name') or 'without a name'} ({port.get('port')})" for port in listed}))


def _entry(item: Any, port: int) -> tuple[str, Endpoint]:
    conditions = item.get("conditions") or {}
    reference = item.get("targetRef") or {}
    hints = item.get("hints") or {}
    endpoint = Endpoint(
        _text(item["addresses"][0]),  # further addresses are interchangeable and deprecated (EndpointSlice API)
        port,
        zone=_text(item.get("zone") or ""),
        health=_health(conditions),
        name=_text(reference.get("name") or item.get("hostname") or ""),
        node=_text(item.get("nodeName") or ""),
        hints=_names(hints.get("forZones")),
        node_hints=_names(hints.get("forNodes")),
    )
    return _text(reference.get("uid") or reference.get("name") or ""), endpoint


def _health(conditions: Any) -> Health:
    """Defaults of unset conditions: ready is true, serving is as ready, terminating is false (EndpointConditions)."""
    ready = conditions.get("ready")
    if ready is None or ready:
        return Health.HEALTHY
    return Health.DRAINING if conditions.get("serving") and conditions.get("terminating") else Health.UNHEALTHY


def _names(listed: Any) -> tuple[str, ...]:
    return tuple(sorted(_text(item["name"]) for item in listed or ()))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
