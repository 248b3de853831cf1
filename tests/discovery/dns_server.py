"""A real DNS server on loopback, whose zone a test changes while it runs."""

import socket
import threading
from typing import Any

from dnslib import QTYPE, RCODE, RR
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):  # type: ignore[misc]
    """name -> lines in zone-file form. `rcode` answers questions with an error, or not at all (SILENT); `silent` answers none.

    `additional` lists the record types that are sent along with SRV records, but for the hosts and types in `dropped`; nothing
    is answered while `open` is not set.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.rcode: dict[str, str] = {}  # record type, name, or * -> name of an error, or SILENT
        self.silent = False
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
        self.open.wait()
        code = self.rcode.get(kind) or self.rcode.get(str(request.q.qname)) or self.rcode.get("*")
        if self.silent or code == "SILENT":
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


class Server:
    """UDP and TCP on one port of 127.0.0.1; `close` ends both."""

    def __init__(self, port: int = 0) -> None:
        self.zone = Zone()
        self.port = port or _free_port()
        quiet = DNSLogger(log="-request,-reply,-truncated,-error,-recv,-send,-data", logf=lambda line: None)
        self._servers = [
            DNSServer(self.zone, port=self.port, address="127.0.0.1", tcp=tcp, logger=quiet) for tcp in (False, True)
        ]
        for server in self._servers:
            server.server.handle_error = lambda request, address: None  # a silent zone is no error worth a traceback
            # Without the interval of its own `start_thread` every close takes up to a second.
            threading.Thread(target=server.server.serve_forever, args=(0.01,), name="dns server", daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        for server in self._servers:
            server.server.shutdown()
            server.server.server_close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
