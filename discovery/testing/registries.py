"""A real etcd and a real DNS server on loopback, which a test fills, stops, freezes, and brings back."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..config import Config, Dns, Etcd
from ..errors import DiscoveryError
from ..snapshot import parse_authority
from ..sources.etcd_client import EtcdClient

_START = 30.0
_NO_ETCD = "etcd 3.4 or newer is not on PATH: apt-get install etcd-server, brew install etcd, or take a binary from its releases"
_NO_DNSLIB = "the DNS server needs dnslib: pip install dnslib, or the extra `testing` of grpc-discovery"


class EtcdServer:
    """`etcd` of PATH, one member. `folder` is for its data and log, `options` are more of its options, such as those for TLS.

    The constructor chooses ports, `start` starts it. Raises DiscoveryError if etcd is not on PATH.
    """

    def __init__(self, folder: Path, options: tuple[str, ...] = (), scheme: str = "http") -> None:
        found = shutil.which("etcd")
        if found is None:
            raise DiscoveryError(_NO_ETCD)
        self._folder = folder
        self._port, peer_port, health_port = _free_ports(3)
        self.address = f"127.0.0.1:{self._port}"
        self._url, peer = f"{scheme}://{self.address}", f"http://127.0.0.1:{peer_port}"
        self._health = f"http://127.0.0.1:{health_port}"  # without TLS and users, whatever the clients' port asks for
        self._command = [
            found, "--data-dir", str(folder), "--logger", "zap", "--log-level", "error",
            "--listen-client-urls", self._url, "--advertise-client-urls", self._url, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--listen-metrics-urls", self._health,
            *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._leases: dict[tuple[str, str], int] = {}

    def start(self) -> None:
        """Start it and wait until it can serve. Raises DiscoveryError with its log if it ends instead."""
        # Until it takes connections would be too early: a member that is killed before its first entries are on the disk finds a
        # log without members when it comes back, and is never elected.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        log_path = self._folder.with_suffix(".log")
        with open(log_path, "ab") as log:
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is behind no proxy
        end = time.monotonic() + _START
        while True:
            with contextlib.suppress(OSError), opener.open(f"{self._health}/health", timeout=1):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise DiscoveryError(f"etcd has ended with {self._process.wait(0.02)}: {log_path.read_text()}")
            if time.monotonic() > end:
                self.stop()
                raise DiscoveryError(f"etcd does not serve after {_START:g} s: {log_path.read_text()}")

    def stop(self) -> None:
        """End it by SIGKILL; its data stays for the next `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Suspend it by SIGSTOP: connections stay, nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)  # until it is suspended: a moment later than the signal

    def thaw(self) -> None:
        """Resume it after `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def set(self, name: str, addresses: Iterable[str]) -> None:
        """Make these `host:port` all endpoints of `etcd:///name`, each under a lease, as servers that register themselves do."""
        wanted = set(addresses)
        with self.client() as client:
            for address in sorted(wanted):
                if (name, address) not in self._leases:
                    lease = self._leases[name, address] = client.grant(3600)
                    value = json.dumps({"Op": 0, "Addr": address, "Metadata": None})
                    client.put(f"{name}/{address}".encode(), value.encode(), lease)
            for key in [key for key in self._leases if key[0] == name and key[1] not in wanted]:
                client.revoke(self._leases.pop(key))

    @property
    def config(self) -> Config:
        """The options of a channel that reads it, with times short enough for a test."""
        return Config(etcd=self.settings())

    def settings(self, **others: str | float) -> Etcd:
        """`config.etcd`, with other values for some fields."""
        return Etcd(**{"endpoints": (self.address,), "timeout": 2.0, "keepalive": 1.0, **others})  # type: ignore[arg-type]

    @contextlib.contextmanager
    def client(self) -> Iterator[EtcdClient]:
        """A connection without a user, for other keys than `set` writes."""
        client = EtcdClient(self.settings(timeout=_START), 0)
        try:
            yield client
        finally:
            client.close()

    def control(self, *arguments: str) -> str:
        """What `etcdctl` of PATH prints."""
        environment = {**os.environ, "ETCDCTL_API": "3"}
        command = ["etcdctl", "--endpoints", self._url, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=_START).stdout


@contextlib.contextmanager
def etcd() -> Iterator[EtcdServer]:
    """A real etcd that is started for the block and forgotten after it.

        with testing.etcd() as registry:
            registry.set("greeter", ["127.0.0.1:50051"])
            channel = discovery.insecure_channel("etcd:///greeter", config=registry.config)

    Raises DiscoveryError if etcd is not on PATH.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = EtcdServer(Path(folder, "data"))
        try:
            server.start()
            yield server
        finally:
            server.stop()


class DnsServer:
    """UDP and TCP on one port of 127.0.0.1, started by the constructor. Raises DiscoveryError if dnslib is not installed."""

    def __init__(self, port: int = 0) -> None:
        try:
            import dnslib.server
        except ModuleNotFoundError:
            raise DiscoveryError(_NO_DNSLIB) from None
        self._dnslib = dnslib
        self.port = port or _free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self._records: dict[str, list[str]] = {}
        self._rcode = ""
        self._frozen = False
        self._servers: list[Any] = []
        self.start()

    def start(self) -> None:
        """Serve again after `stop`, with the same records."""
        quiet = self._dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error,-recv,-send,-data", logf=lambda line: None)
        for tcp in (False, True) if not self._servers else ():
            server = self._dnslib.server.DNSServer(self, port=self.port, address="127.0.0.1", tcp=tcp, logger=quiet).server
            server.handle_error = lambda request, address: None  # a question that is not answered is no error worth a traceback
            self._servers.append(server)
            # Without the interval of its own `start_thread` every close takes up to a second.
            threading.Thread(target=server.serve_forever, args=(0.01,), name="dns server", daemon=True).start()

    def stop(self) -> None:
        """End it: nothing listens on its port."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
            server.server_close()

    def fail(self, rcode: str) -> None:
        """From now on answer every question with this error, such as SERVFAIL; an empty text ends it."""
        self._rcode = rcode

    def freeze(self) -> None:
        """From now on answer nothing."""
        self._frozen = True

    def thaw(self) -> None:
        """Answer again after `freeze`."""
        self._frozen = False

    def set(self, name: str, addresses: Iterable[str]) -> None:
        """Make these `host:port` all endpoints of `dns-poll:///name`, by SRV records, and their hosts the A and AAAA records of `name`."""
        name = f"{name.removesuffix('.')}."
        places = [parse_authority(address) for address in addresses]
        hosts = {host: f"{re.sub('[.:]', '-', host)}.{name}" for host, _ in places}
        lines = {host: f"{'AAAA' if ':' in host else 'A'} {host}" for host in hosts}
        for host, own in hosts.items():
            self.records(own, lines[host])
        self.records(name, *lines.values(), *(f"SRV 0 1 {port} {hosts[host]}" for host, port in places))

    def records(self, name: str, *lines: str) -> None:
        """Set the records of a name that ends with a dot, such as `A 127.0.0.1`; without any it does not exist."""
        self._records = {**self._records, name: [f"{name} 1 IN {line}" for line in lines]}

    def resolve(self, request: Any, handler: Any) -> Any:
        """The answer to one question; called by dnslib."""
        if self._frozen:
            raise TimeoutError("the server is frozen")
        reply, lines = request.reply(), self._records.get(str(request.q.qname), [])
        if self._rcode or not lines:
            reply.header.rcode = getattr(self._dnslib.RCODE, self._rcode or "NXDOMAIN")
            return reply
        reply.add_answer(
            *(record for line in lines for record in self._dnslib.RR.fromZone(line) if record.rtype == request.q.qtype)
        )
        return reply

    @property
    def config(self) -> Config:
        """The options of a channel that asks it, every 50 ms."""
        return Config(dns=self.settings())

    def settings(self, **others: str | float) -> Dns:
        """`config.dns`, with other values for some fields."""
        return Dns(**{"refresh": 0.05, "timeout": 1.0, "servers": (self.address,), **others})  # type: ignore[arg-type]


@contextlib.contextmanager
def dns_server() -> Iterator[DnsServer]:
    """A DNS server for the block.

        with testing.dns_server() as registry:
            registry.set("greeter.test.", ["127.0.0.1:50051"])
            channel = discovery.insecure_channel("dns-poll:///greeter.test.", config=registry.config)

    Raises DiscoveryError if dnslib is not installed.
    """
    server = DnsServer()
    try:
        yield server
    finally:
        server.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
