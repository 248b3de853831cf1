"""A real etcd of one member on loopback, which a test stops, freezes and brings back."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from discovery.config import Etcd
from discovery.sources.etcd_client import EtcdClient

DEADLINE = 30.0
"""Seconds for whatever must happen; never how long something takes."""


class EtcdServer:
    """`etcd` of PATH with its data in `folder`. `options` are further command line options, such as those for TLS."""

    def __init__(self, folder: Path, options: tuple[str, ...] = (), scheme: str = "http") -> None:
        self._folder = folder
        self._options = options
        self._scheme = scheme
        self._port, self._peer_port, self._health_port = _free_ports(3)
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it can serve.

        Until it takes connections would be too early: a member that is killed before its first entries are on the disk
        finds a log without members when it comes back, and is never elected.
        """
        client, peer = f"{self._scheme}://{self.address}", f"http://127.0.0.1:{self._peer_port}"
        health = f"http://127.0.0.1:{self._health_port}"  # without TLS and users, whatever the clients' port asks for
        command = [
            shutil.which("etcd") or "etcd", "--data-dir", str(self._folder), "--logger", "zap", "--log-level", "error",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--listen-metrics-urls", health, *self._options,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with open(self._folder.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is behind no proxy
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), opener.open(f"{health}/health", timeout=1):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(
                    f"etcd has ended with {self._process.wait(0.02)}: {self._folder.with_suffix('.log').read_text()}"
                )
            assert time.monotonic() < end

    def stop(self) -> None:
        """End it as SIGKILL does; its data stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It hangs: connections stand, nothing is answered."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def settings(self, **others: str | float) -> Etcd:
        """How to reach it, with times short enough for a test."""
        return Etcd(**{"endpoints": (self.address,), "timeout": 2.0, "keepalive": 1.0, **others})  # type: ignore[arg-type]

    @contextlib.contextmanager
    def client(self) -> Iterator[EtcdClient]:
        """A connection without a user, once the member can serve."""
        client = EtcdClient(self.settings(timeout=DEADLINE), 0)
        try:
            yield client
        finally:
            client.close()

    def control(self, *arguments: str) -> str:
        """What `etcdctl` of PATH prints."""
        environment = {**os.environ, "ETCDCTL_API": "3"}
        command = ["etcdctl", "--endpoints", f"{self._scheme}://{self.address}", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE).stdout


class EtcdProxy:
    """etcd's own gRPC proxy in front of a server, for the duration of a block."""

    def __init__(self, server: EtcdServer) -> None:
        [port] = _free_ports(1)
        self.address = f"127.0.0.1:{port}"
        command = [
            shutil.which("etcd") or "etcd",
            "grpc-proxy",
            "start",
            "--endpoints",
            server.address,
            "--listen-addr",
            self.address,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> "EtcdProxy":
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(_pair(self.address)):
                return self
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"etcd grpc-proxy has ended with {self._process.wait(0.02)}")
            assert time.monotonic() < end

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()

    def settings(self, **others: str | float) -> Etcd:
        """How to reach it."""
        return Etcd(**{"endpoints": (self.address,), "timeout": 2.0, "keepalive": 1.0, **others})  # type: ignore[arg-type]


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
