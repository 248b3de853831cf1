"""A name's addresses, queried on a timer (scheme dns-poll), because DNS does not announce changes.

With a port: A and AAAA records. Without: SRV (RFC 2782), with port and weight, of the lowest priority; the addresses come from the
same answer if the server includes them. A pod with an IPv4 and an IPv6 address counts as two endpoints: DNS does not say that they
are one.
"""

import ipaddress
import threading
from collections.abc import Iterator
from typing import ClassVar

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from ..config import Config, Dns, Empty
from ..errors import SourceError, TargetError
from ..snapshot import Endpoint, Snapshot, canonical_address, parse_authority
from ..target import Target

MINIMAL_REFRESH = 0.05
"""The minimum of seconds between two queries, whatever the setting is."""

_ADDRESS_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsSource:
    """Queries, yields, waits, until closed. A name without records is an empty set; a query without an answer is an error."""

    knows_health: ClassVar[bool] = False
    empty: ClassVar[Empty] = Empty("keep")
    registry = ""

    def __init__(self, target: Target, settings: Dns) -> None:
        self._target = target
        self._settings = settings
        self._resolver = _resolver(target, settings)
        self._closed = threading.Event()

    def watch(self) -> Iterator[Snapshot]:
        name, port = self._target.name, self._target.port
        while not self._closed.is_set():
            snapshot = Snapshot.of(self._endpoints(name, int(port))) if port else self._services(name)
            if self._closed.is_set():
                return
            yield snapshot
            self._closed.wait(max(MINIMAL_REFRESH, self._settings.refresh))

    def close(self) -> None:
        self._closed.set()

    def _endpoints(self, name: str, port: int) -> list[Endpoint]:
        try:
            return [Endpoint(canonical_address(name), port)]
        except ValueError:
            return [Endpoint(address, port, name=name.removesuffix(".")) for address in self._addresses(name)]

    def _addresses(self, name: str) -> list[str]:
        """Both families. If one fails, all fail: half an answer would remove endpoints that exist."""
        answers = [self._ask(name, kind) for kind in _ADDRESS_TYPES]
        return [record.address for answer in answers if answer is not None for record in answer.rrset or ()]

    def _services(self, name: str) -> Snapshot:
        answer = self._ask(name, dns.rdatatype.SRV)
        records = list(answer.rrset or ()) if answer is not None else []
        best = min((record.priority for record in records), default=0)
        chosen = [record for record in records if record.priority == best and record.target != dns.name.root]
        addresses = _sent_along(answer) if answer is not None else {}
        for host in {record.target for record in chosen} - addresses.keys():
            addresses[host] = self._addresses(host.to_text())
        return Snapshot.of(
            (
                # A weight of 0 means "hardly ever" in RFC 2782; our weights begin at 1.
                Endpoint(address, record.port, weight=max(1, record.weight), name=record.target.to_text(omit_final_dot=True))
                for record in chosen
                for address in addresses[record.target]
            ),
            (
                f"the SRV record of '{name}' names '{record.target}', which has no address"
                for record in chosen
                if not addresses[record.target]
            ),
        )

    def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer | None:
        """The answer, possibly without a record; None if the name does not exist."""
        try:
            # A name with a dot at its end is complete; others go through resolv.conf's search list.
            return self._resolver.resolve(name, kind, raise_on_no_answer=False, search=not name.endswith("."))
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.DNSException, OSError) as error:
            servers = ", ".join(map(_written, self._resolver.nameservers)) or "none"
            raise SourceError(
                f"the {dns.rdatatype.to_text(kind)} records of '{name}' cannot be read from DNS ({servers})"
                f" within {self._settings.timeout:g} s: {_reason(error)}"
            ) from None


def _sent_along(answer: dns.resolver.Answer) -> dict[dns.name.Name, list[str]]:
    """The addresses of the additional section, by host. A host with fewer families than others is omitted, and queried: a server may
    silently drop what does not fit."""
    found: dict[dns.name.Name, dict[dns.rdatatype.RdataType, list[str]]] = {}
    for records in answer.response.additional:
        if records.rdtype in _ADDRESS_TYPES:
            found.setdefault(records.name, {})[records.rdtype] = [record.address for record in records]
    families = {kind for by_kind in found.values() for kind in by_kind}
    whole = {host: by_kind.values() for host, by_kind in found.items() if by_kind.keys() == families}
    return {host: [address for addresses in by_kind for address in addresses] for host, by_kind in whole.items()}


def _written(server: str | dns.nameserver.Nameserver) -> str:
    return f"{server.address}:{server.port}" if isinstance(server, dns.nameserver.Do53Nameserver) else str(server)


def _reason(error: Exception) -> str:
    """One line, without the list of servers that dnspython repeats."""
    if isinstance(error, dns.resolver.NoNameservers):
        codes = {str(attempt[3]) for attempt in error.kwargs.get("errors", ())}
        return "; ".join(sorted(codes)) or "every server failed"
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer in time"
    return str(error) or type(error).__name__


def _resolver(target: Target, settings: Dns) -> dns.resolver.Resolver:
    """dnspython's, without a cache, with the configured servers or those of the system."""
    try:
        resolver = dns.resolver.Resolver(configure=True)
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.resolver.Resolver(configure=False)
        if not settings.servers:
            raise TargetError(f"target '{target}': the system names no DNS server; name one in Dns(servers=...)") from None
    if settings.servers:
        resolver.nameservers = [_server(target, server) for server in settings.servers]
    resolver.lifetime = settings.timeout
    resolver.timeout = settings.timeout / 3  # leaves time for another attempt after a lost datagram or a server that is down
    return resolver


def _server(target: Target, text: str) -> dns.nameserver.Nameserver:
    try:
        host, port = (str(ipaddress.ip_address(text.strip("[]"))), 53)
    except ValueError:
        try:
            host, port = parse_authority(text)
            ipaddress.ip_address(host)
        except ValueError:
            raise TargetError(
                f"target '{target}': the DNS server '{text}' must be an IP address, or address:port as in 10.96.0.10:53"
            ) from None
    return dns.nameserver.Do53Nameserver(host, port)


def open_source(target: Target, config: Config) -> DnsSource:
    """The source of a `dns-poll:///name[:port]` target; `config.dns` applies. Raises TargetError for a bad server."""
    return DnsSource(target, config.dns)
