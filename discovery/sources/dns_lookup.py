"""Questions to DNS servers: the search list, several servers, several families, within a bounded time. Needs dnspython."""

import contextlib
import io
import random
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver

from ..errors import SourceError

RESOLV_CONF = Path("/etc/resolv.conf")

ATTEMPTS = 3
"""How often silent servers are asked, if time allows; each attempt takes at most this part of the timeout."""

GRACE = 0.2
"""Seconds for which a family is waited for that may be silent: at the first look-up, and within the search list."""

_SILENCE = "no answer in time"
_FINAL = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)  # after any other code, the next server is asked

Server = tuple[str, int]
Question = tuple[dns.name.Name, str]
"""An absolute name and a record type."""


class Lookup:
    """The questions of one look-up, with resolv.conf as it is at its start.

    The names of the search list are asked one after the other, and one that fails does not end the search. A server that was silent
    is asked last from then on. Raises SourceError if a question of `needed` fails, or resolv.conf is no help.
    """

    def __init__(self, servers: Sequence[Server], timeout: float, needed: Collection[Question], closed: threading.Event) -> None:
        self.failed: dict[Question, str] = {}
        self._timeout = timeout
        self._needed = needed
        self._closed = closed
        self._system = _system()
        ports = self._system.nameserver_ports
        self._servers = servers or [(str(host), ports.get(str(host), self._system.port)) for host in self._system.nameservers]
        if not self._servers:
            raise SourceError(f"{RESOLV_CONF} names no DNS server; name one in Dns(servers=...)")
        if self._system.rotate:
            self._servers = random.sample(self._servers, len(self._servers))
        self._silent: set[Server | str] = set()  # servers, and record types of which one was answered and the other not
        self._deadline = time.monotonic() + 2 * self._timeout

    @property
    def failure(self) -> str:
        """The sentence about what failed."""
        names = sorted({name.to_text() for name, _ in self.failed})
        kinds = " and ".join(sorted({kind for _, kind in self.failed}))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        servers = ", ".join(f"{host}:{port}" for host, port in sorted(self._servers))
        reasons = "; ".join(sorted(set(self.failed.values())))
        return f"the {kinds} records of '{names[0]}'{more} cannot be read from DNS ({servers}): {reasons}"

    def search(self, name: str, kinds: Sequence[str]) -> dict[Question, dns.resolver.Answer]:
        """The answers for the first name of the search list that has records."""
        candidates = _candidates(self._system, name)
        for candidate in candidates:
            answers = self._ask(candidate, kinds, last=candidate == candidates[-1])
            if any(answers.values()):
                self.failed = {question: reason for question, reason in self.failed.items() if question[0] == candidate}
                return answers
        return {}

    def additional(self, answers: dict[Question, dns.resolver.Answer], kinds: Sequence[str]) -> dict[dns.name.Name, list[str]]:
        """The addresses that servers sent along, by host. A host with fewer families than others, or than before, is omitted, and
        must be asked about: a server may silently drop what does not fit."""
        found: dict[Question, list[str]] = {}
        for answer in answers.values():
            for records in answer.response.additional:
                if (kind := dns.rdatatype.to_text(records.rdtype)) in kinds:
                    found[(records.name, kind)] = [record.address for record in records]
        families = {kind for _, kind in found}
        return {
            host: [address for kind in kinds for address in found.get((host, kind), ())]
            for host in {host for host, _ in found}
            if all((host, kind) in found for kind in kinds if kind in families or (host, kind) in self._needed)
        }

    def hosts(self, names: Sequence[dns.name.Name], kinds: Sequence[str]) -> dict[Question, dns.resolver.Answer]:
        """The answers for absolute names, until none has come for the timeout."""
        answers: dict[Question, dns.resolver.Answer] = {}
        for name in names:
            asked = [kind for kind in kinds if kind not in self._silent or (name, kind) in self._needed]
            self.failed |= {(name, kind): _SILENCE for kind in kinds if kind not in asked}
            if found := self._ask(name, asked, last=True):
                answers |= found
                self._deadline = max(self._deadline, time.monotonic() + self._timeout)
        return answers

    def _ask(self, name: dns.name.Name, kinds: Sequence[str], *, last: bool) -> dict[Question, dns.resolver.Answer]:
        """Ask about one name; `last` says that no other name needs the time that is left."""
        left = max(0.0, self._deadline - time.monotonic())
        end = time.monotonic() + (min(self._timeout, left) if last else left / 2)
        answers: dict[Question, dns.resolver.Answer] = {}
        failed: dict[Question, str] = {}
        for again in range(ATTEMPTS if last else 1):
            for question in [(name, kind) for kind in kinds]:
                spare = any(answers.values()) and question not in self._needed  # addresses wait for this family
                if question in answers or failed.get(question, _SILENCE) != _SILENCE or (again and spare):
                    continue
                until = end
                if spare:
                    until = min(end, time.monotonic() + (self._timeout / ATTEMPTS if self._needed else GRACE))
                elif not last and question not in self._needed and (question[1] in self._silent or _SILENCE in failed.values()):
                    until = min(end, time.monotonic() + GRACE)
                answer = self._answer(question, until)
                if isinstance(answer, str):
                    failed[question] = answer
                else:
                    answers[question] = answer
                    failed.pop(question, None)
        if answers:
            self._silent.update(kind for (_, kind), reason in failed.items() if reason == _SILENCE)
        elif last:
            failed = {question: reason.replace("in time", f"within {self._timeout:g} s") for question, reason in failed.items()}
        self.failed |= failed
        if failed.keys() & self._needed:
            raise SourceError(self.failure)
        return answers

    def _answer(self, question: Question, end: float) -> dns.resolver.Answer | str:
        """The answer, possibly without a record, or the reason why no server gives one."""
        system, kind = self._system, dns.rdatatype.from_text(question[1])
        query = dns.message.make_query(question[0], kind)
        query.use_edns(system.edns, system.ednsflags, system.payload, options=system.ednsoptions)
        reasons = set()
        for host, port in sorted(self._servers, key=self._silent.__contains__):
            patience = min(end - time.monotonic(), self._timeout / ATTEMPTS)
            if patience <= 0 or self._closed.is_set():
                break
            try:
                reply, _ = dns.query.udp_with_fallback(query, host, patience, port, ignore_unexpected=True, ignore_errors=True)
                if isinstance(reply, dns.message.QueryMessage) and reply.rcode() in _FINAL:
                    return dns.resolver.Answer(question[0], kind, dns.rdataclass.IN, reply)
                reasons.add(dns.rcode.to_text(reply.rcode()))
            except dns.exception.Timeout:
                self._silent.add((host, port))
            except (dns.exception.DNSException, EOFError, OSError, ValueError) as error:
                reasons.add(str(error) or type(error).__name__)
        return "; ".join(sorted(reasons)) or _SILENCE


def _candidates(system: dns.resolver.Resolver, name: str) -> list[dns.name.Name]:
    """The absolute names that `name` may mean, in the order of resolv.conf(5)."""
    relative = dns.name.from_text(name, None)
    if relative.is_absolute():
        return [relative]
    searched = system.search or [system.domain or dns.name.root]
    complete = len(relative) > (1 if system.ndots is None else system.ndots)
    found = []
    for suffix in [dns.name.root, *searched] if complete else [*searched, dns.name.root]:
        with contextlib.suppress(dns.name.NameTooLong):
            found.append(relative + suffix)
    if not found:
        raise SourceError(f"'{name}' is too long for a name in DNS")
    return list(dict.fromkeys(found))


def _system() -> dns.resolver.Resolver:
    """What resolv.conf says now, without the words that dnspython raises about; the C library steps over them, too."""
    usable = {"nameserver": dns.inet.is_address, "search": _is_name, "domain": _is_name}
    kept = []
    with contextlib.suppress(OSError):
        for line in RESOLV_CONF.read_text(errors="replace").splitlines():
            word, *values = line.split() or [""]
            kept.append(" ".join([word, *filter(usable.get(word), values)] if word in usable else [word, *values]))
    try:
        system = dns.resolver.Resolver(configure=False)
        with contextlib.suppress(dns.resolver.NoResolverConfiguration):  # it names no server; search list and options hold
            system.read_resolv_conf(io.StringIO("\n".join(kept)))
    except (dns.exception.DNSException, ValueError) as error:
        raise SourceError(f"{RESOLV_CONF} cannot be used: {str(error) or type(error).__name__}") from None
    return system


def _is_name(text: str) -> bool:
    try:
        return dns.name.from_text(text).is_absolute()
    except (dns.exception.DNSException, ValueError):
        return False
