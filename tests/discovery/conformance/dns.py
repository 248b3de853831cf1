"""dns-poll, on a real DNS server: a headless name's A records, and one port for all."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from discovery.config import Config, Dns
from discovery.testing import Backend

from ..dns_server import Server as DnsServer
from .registry import Place, Registry

_NAMES = ("greeter.test.", "other.test.")


class DnsRegistry(Registry):
    """UDP and TCP on loopback; down is SERVFAIL, hanging is no answer."""

    name = "dns-poll"
    lacks: ClassVar = {"test_malformed": "an A or AAAA record is always an address"}

    def __init__(self) -> None:
        self._server = DnsServer()
        self._port = 50051
        self._lines: dict[str, list[str]] = {name: [] for name in _NAMES}

    def target(self, service: int = 0) -> str:
        return f"dns-poll:///{_NAMES[service]}:{self._port}"

    def config(self, *, impatient: bool = False) -> Config:
        dns = Dns(refresh=0.05, timeout=1.0 if impatient else 5.0, servers=(self._server.address,))
        return replace(super().config(), dns=dns)

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        self._lines[_NAMES[service]] = [f"A {address}" for address, _ in wanted]
        self._server.zone.set(_NAMES[service], *self._lines[_NAMES[service]])

    def rewrite(self) -> None:
        self._server.zone.set(_NAMES[0], *reversed(self._lines[_NAMES[0]]))

    def down(self) -> None:
        self._server.zone.rcode = {"*": "SERVFAIL"}

    def up(self) -> None:
        self._server.zone.rcode = {}

    def hang(self) -> None:
        self._server.zone.silent = True

    def thaw(self) -> None:
        self._server.zone.silent = False

    def servers(self, *names: str) -> dict[str, tuple[Backend, Place]]:
        """On addresses of their own with one port, as pods have them."""
        for _ in range(50):
            running: dict[str, tuple[Backend, Place]] = {}
            port = 0
            try:
                for number, name in enumerate(names, 1):
                    server = Backend(name, f"127.0.1.{number}:{port}")
                    running[name] = server, (f"127.0.1.{number}", server.port)
                    port = server.port
            except RuntimeError:  # the port is taken on one of the addresses
                for server, _place in running.values():
                    server.stop()
                continue
            self._port = port
            return running
        raise OSError(errno.EADDRINUSE, "no port is free on all addresses", socket.gethostname())

    def close(self) -> None:
        self._server.close()
