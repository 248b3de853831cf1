"""A name's addresses, asked for on a timer (scheme dns-poll): DNS tells nobody of a change, so it is asked again and again.

With a port: A and AAAA records. Without: SRV (RFC 2782), whose port and weight count, and of whose priorities the lowest. A
pod with an IPv4 and an IPv6 address is two endpoints here: DNS does not say that they are one.
"""

import ipaddress
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from ..config import Config, Dns, Empty
from ..errors import SourceError, TargetError
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..target import Target

MINIMAL_REFRESH = 0.05
"""Seconds between two questions at the least, whatever the setting says."""

_ADDRESS_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsSource:
    """Asks, yields, waits, until closed. A name without records is an empty set; a question without an answer an error."""

    knows_health: ClassVar[bool] = False
    empty: ClassVar[Empty] = Empty("keep")

    def __init__(self, target: Target, settings: Dns) -> None:
        self._target = target
        self._settings = settings
        self._resolver = _resolver(target, settings)
        self._closed = threading.Event()

    def watch(self) -> Iterator[Snapshot]:
        while not self._closed.is_set():
            name, port = self._target.name, self._target.port
            yield Snapshot.of(self._addresses(name, int(port)) if port else self._services(name))
            self._closed.wait(max(MINIMAL_REFRESH, self._settings.refresh))

    def close(self) -> None:
        self._closed.set()

    def _addresses(self, name: str, port: int, weight: int = 1) -> list[Endpoint]:
        """Both families. Where one fails all fail: half an answer would take away endpoints that live."""
        try:
            return [Endpoint(str(ipaddress.ip_address(name)), port, weight=weight)]
        except ValueError:
            pass
        records = [record for kind in _ADDRESS_TYPES for record in self._ask(name, kind)]
        return [Endpoint(record.address, port, weight=weight, name=name.removesuffix(".")) for record in records]

    def _services(self, name: str) -> list[Endpoint]:
        records = self._ask(name, dns.rdatatype.SRV)
        best = min((record.priority for record in records), default=0)
        return [
            endpoint
            for record in records
            if record.priority == best and str(record.target) != "."
            # A weight of 0 means "hardly ever" in RFC 2782; our weights begin at 1.
            for endpoint in self._addresses(str(record.target), record.port, max(1, record.weight))
        ]

    def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> list[Any]:
        # A name that begins without a search list in mind ends with a dot; others go through resolv.conf's.
        try:
            return list(self._resolver.resolve(name, kind, raise_on_no_answer=False, search=not name.endswith(".")).rrset or ())
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.exception.DNSException, OSError) as error:
            servers = ", ".join(str(server) for server in self._resolver.nameservers) or "none"
            kind_text = dns.rdatatype.to_text(kind)
            raise SourceError(
                f"the {kind_text} records of '{name}' cannot be read from DNS ({servers}) within {self._settings.timeout:g} s: {_reason(error)}"
            ) from None


def _reason(error: Exception) -> str:
    """One line, without the servers' list that dnspython repeats."""
    if isinstance(error, dns.resolver.NoNameservers):
        codes = {str(attempt[3]) for attempt in error.kwargs.get("errors", ())}
        return "; ".join(sorted(codes)) or "every server failed"
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer in time"
    return str(error) or type(error).__name__


def _resolver(target: Target, settings: Dns) -> dns.resolver.Resolver:
    """dnspython's, without a cache, asking the servers that were set or those of the system."""
    try:
        resolver = dns.resolver.Resolver(configure=True)
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.resolver.Resolver(configure=False)
        if not settings.servers:
            raise TargetError(f"target '{target}': the system names no DNS server; name one in Dns(servers=...)") from None
    if settings.servers:
        resolver.nameservers = [_server(target, server) for server in settings.servers]
    resolver.lifetime = settings.timeout
    resolver.timeout = min(resolver.timeout, settings.timeout)
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
