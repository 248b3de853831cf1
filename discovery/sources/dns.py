"""A name's addresses, queried on a timer (scheme dns-poll), because DNS does not announce changes.

With a port: A and AAAA records. Without: SRV (RFC 2782), with port and weight, of the lowest priority; the addresses come from the
same answer if the server includes them. A pod with an IPv4 and an IPv6 address counts as two endpoints: DNS does not say that they
are one. An address in /etc/hosts takes precedence.
"""

import contextlib
import ipaddress
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..config import Config, Dns, Empty
from ..errors import SourceError, TargetError
from ..snapshot import Endpoint, Snapshot, canonical_address, parse_authority
from ..target import Target

if TYPE_CHECKING:
    from .dns_lookup import Lookup, Question, Server

HOSTS = Path("/etc/hosts")

MINIMAL_REFRESH = 0.05
"""The minimum of seconds between two look-ups, whatever the setting is."""

_KINDS = {"any": ("A", "AAAA"), "ipv4": ("A",), "ipv6": ("AAAA",)}


class DnsSource:
    """Looks up, yields, waits, until closed. A name without records is an empty set; one that cannot be read is an error.

    A question that fails removes nothing: if the last set came from its answer, too, the look-up is an error; otherwise the rest is
    passed on, with a problem. A look-up in progress ends one attempt (a third of the timeout) after `close` at the latest.
    """

    knows_health: ClassVar[bool] = False
    empty: ClassVar[Empty] = Empty("keep")

    def __init__(self, target: Target, settings: Dns) -> None:
        self._target = target
        self._settings = settings
        self._kinds = _KINDS[settings.family]
        self._servers = [_server(target, text) for text in settings.servers]
        self._known: frozenset[Question] = frozenset()  # what was asked for the last set that was not empty, and had records
        self._closed = threading.Event()

    @property
    def registry(self) -> str:
        """The configured servers, or `system`."""
        return ",".join(sorted(self._settings.servers)) or "system"

    def watch(self) -> Iterator[Snapshot]:
        while not self._closed.is_set():
            first = not self._known
            try:
                snapshot = self._look_up(self._target.name)
            except SourceError:
                if not self._closed.is_set():  # else its questions were broken off
                    raise
            if self._closed.is_set():
                return
            yield snapshot
            # A first set did not wait for a family that was late; the next look-up does.
            incomplete = first and self._known and snapshot.problems
            self._closed.wait(MINIMAL_REFRESH if incomplete else max(MINIMAL_REFRESH, self._settings.refresh))

    def close(self) -> None:
        self._closed.set()

    def _look_up(self, name: str) -> Snapshot:
        port, label = int(self._target.port or 0), name.removesuffix(".")
        if port:
            with contextlib.suppress(ValueError):
                return Snapshot.of([Endpoint(canonical_address(name), port)])
            if fixed := _from_hosts_file({label}, self._kinds):
                return Snapshot.of(Endpoint(address, port, name=label) for address in fixed[label])
        lookup = self._lookup()
        if not port:
            return self._services(lookup, name)
        answers = lookup.search(name, self._kinds)
        addresses = [record.address for answer in answers.values() for record in answer]
        problems = self._check(lookup, {question for question, answer in answers.items() if answer})
        return Snapshot.of((Endpoint(address, port, name=label) for address in addresses), problems)

    def _lookup(self) -> "Lookup":
        try:
            from .dns_lookup import Lookup  # not earlier: dnspython takes 0.1 s, which opening a channel must not
        except ImportError as error:
            raise SourceError(f"dnspython cannot be imported: {error}; pip install 'dnspython>=2.6'") from None
        return Lookup(self._servers, self._settings.timeout, self._known, self._closed)

    def _services(self, lookup: "Lookup", name: str) -> Snapshot:
        answers = lookup.search(name, ("SRV",))
        records = [record for answer in answers.values() for record in answer]
        best = min((record.priority for record in records), default=0)
        chosen = [record for record in records if record.priority == best and record.target.to_text() != "."]
        hosts = {record.target: record.target.to_text(omit_final_dot=True) for record in chosen}
        fixed = _from_hosts_file(set(hosts.values()), self._kinds)
        addresses = {host: fixed[text] for host, text in hosts.items() if text in fixed}
        addresses = lookup.additional(answers, self._kinds) | addresses
        for (host, _), found in lookup.hosts(sorted(hosts.keys() - addresses.keys()), self._kinds).items():
            addresses.setdefault(host, []).extend(record.address for record in found)
        sources = {(host, _kind(address)) for host in hosts for address in addresses.get(host, ())}
        problems = self._check(lookup, sources | answers.keys() if sources else sources)
        missing = [host for host in hosts if not addresses.get(host) and all(host != failed for failed, _ in lookup.failed)]
        problems += [f"the SRV record of '{name}' names '{host}', which has no address" for host in missing]
        endpoints = [
            Endpoint(address, record.port, weight=weight, name=hosts[record.target])
            for record, weight in zip(chosen, _weights([record.weight for record in chosen]), strict=True)
            for address in addresses.get(record.target, ())
        ]
        return Snapshot.of(endpoints, problems)

    def _check(self, lookup: "Lookup", sources: "Collection[Question]") -> list[str]:
        """The problem of a set whose addresses come from `sources`. Raises SourceError if it is empty because questions failed."""
        if lookup.failed and not sources:
            raise SourceError(lookup.failure)
        self._known = frozenset(sources) or self._known  # an empty set is not always accepted
        return [f"{lookup.failure}; the set goes without them (Dns(family=...) asks for one family)"] if lookup.failed else []


def _from_hosts_file(names: Collection[str], kinds: Sequence[str]) -> dict[str, list[str]]:
    """The addresses of names in the hosts file, which programs read before they ask DNS; localhost is this host (RFC 6761)."""
    found: dict[str, list[str]] = {}
    wanted = {name.lower(): name for name in names}
    with contextlib.suppress(OSError):
        content = HOSTS.read_text(errors="replace").lower()
        # Lists of blocked names have 100,000 lines, of which hardly one is split.
        mentioned = [name for name in wanted if name in content]
        for line in content.splitlines() if mentioned else ():
            if not any(name in line for name in mentioned):
                continue
            text, *aliases = line.partition("#")[0].split() or [""]
            for alias in wanted.keys() & {alias.removesuffix(".") for alias in aliases}:
                with contextlib.suppress(ValueError):
                    if _kind(address := canonical_address(text)) in kinds:
                        found.setdefault(wanted[alias], []).append(address)
    for name in wanted:
        if f".{name}".endswith(".localhost"):
            listed = [address for address in found.get(wanted[name], ()) if ipaddress.ip_address(address).is_loopback]
            found[wanted[name]] = listed or [address for address in ("127.0.0.1", "::1") if _kind(address) in kinds]
    return found


def _kind(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _weights(weights: Sequence[int]) -> list[int]:
    """Weights from 1 up. In RFC 2782 a weight of 0 beside others means a very small one: here a hundredth of what 1 gets."""
    factor = min(100.0, 65535 / max(weights)) if any(weights) and 0 in weights else 1.0
    return [max(1, round(weight * factor)) for weight in weights]


def _server(target: Target, text: str) -> "Server":
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), 53
    except ValueError:
        try:
            host, port = parse_authority(text)
            return str(ipaddress.ip_address(host)), port
        except ValueError:
            raise TargetError(
                f"target '{target}': the DNS server '{text}' must be an IP address, or address:port as in 10.96.0.10:53"
            ) from None


def open_source(target: Target, config: Config) -> DnsSource:
    """The source of a `dns-poll:///name[:port]` target; `config.dns` applies. Raises TargetError for a bad server."""
    return DnsSource(target, config.dns)
