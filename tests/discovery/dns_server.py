"""A real DNS server on loopback, whose zone a test changes while it runs."""

import threading
from typing import Any

from dnslib import QTYPE, RCODE, RR
from dnslib.server import BaseResolver

from discovery.testing import DnsServer


class Zone(BaseResolver):  # type: ignore[misc]
    """name -> lines in zone-file form. `rcode` answers questions with an error, or not at all (SILENT); `silent` answers
    none.

    `additional` lists the record types that are sent along with SRV records, but for the hosts and types in `dropped`; nothing
    is answered while `open` is not set.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.rcode: dict[str, str] = {}  # record type, name, or * -> name of an error, or SILENT
        self.silent = False
        self.lose = 0  # so many of the next questions are not answered
        self.additional: list[str] = []
        self.dropped: set[tuple[str, str]] = set()
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self.questions: list[tuple[str, str]] = []
        self.answered = threading.Condition()

    def set(self, name: str, *lines: str) -> None:
        """Records of `name`, such as `A 127.0.0.1`; none at all makes the name unknown."""
        self.records = {**self.records, name: [f"{name} 1 IN {line}" for line in lines]}

    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        kind = QTYPE[request.q.qtype]
        with self.answered:
            self.asked += 1
            self.questions.append((str(request.q.qname), kind))
            self.answered.notify_all()
            self.lose, lost = max(0, self.lose - 1), self.lose > 0
        self.open.wait()
        code = self.rcode.get(kind) or self.rcode.get(str(request.q.qname)) or self.rcode.get("*")
        if self.silent or lost or code == "SILENT":
            raise TimeoutError("the zone is silent")
        lines = self.records.get(str(request.q.qname), [])
        if code:
            reply.header.rcode = getattr(RCODE, code)
        elif not lines:
            reply.header.rcode = RCODE.NXDOMAIN
        for line in lines if not code else ():
            for record in RR.fromZone(line):
                if record.rtype == request.q.qtype:
                    reply.add_answer(record)
                    if kind == "SRV":
                        self._send_along(reply, str(record.rdata.target))
        return reply

    def _send_along(self, reply: Any, host: str) -> None:
        for line in self.records.get(host, []):
            for record in RR.fromZone(line):
                if QTYPE[record.rtype] in self.additional and (host, QTYPE[record.rtype]) not in self.dropped:
                    reply.add_ar(record)


class Server(DnsServer):
    """UDP and TCP on one port of 127.0.0.1, which answer from `zone`."""

    def __init__(self, port: int = 0) -> None:
        self.zone = Zone()
        super().__init__(port)

    def resolve(self, request: Any, handler: Any) -> Any:
        return self.zone.resolve(request, handler)

    def close(self) -> None:
        self.stop()
