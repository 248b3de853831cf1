"""etcd's own gRPC proxy in front of a server: it answers fewer requests than a member does."""

import contextlib
import shutil
import socket
import subprocess
import time

from discovery.config import Etcd
from discovery.snapshot import parse_authority
from discovery.testing import EtcdServer

from .servers import DEADLINE


class EtcdProxy:
    """It runs for the duration of a block."""

    def __init__(self, server: EtcdServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        etcd = shutil.which("etcd") or "etcd"
        command = [etcd, "grpc-proxy", "start", "--endpoints", server.address, "--listen-addr", self.address]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> "EtcdProxy":
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(parse_authority(self.address)):
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
