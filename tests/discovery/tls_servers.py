"""Real TLS for tests: authorities, files in the layout of a mounted Secret, and servers that follow them."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery.tls.certificates import CertificateFiles
from discovery.wire import messages_pb2 as wire

trustme = pytest.importorskip("trustme", reason="the TLS tests need trustme: pip install trustme")

NAME = "greeter-server"
"""The name in the servers' certificates."""

OPTIONS = (("grpc.default_authority", NAME), ("grpc.enable_retries", 0))


class Folder:
    """Three files, replaced one by one by rename, as they are read."""

    def __init__(self, path: Path, name: str, authority: Any, **others: Any) -> None:
        path.mkdir(parents=True)
        self.path = path
        self._name = name
        self.issue(authority, **others)

    def issue(self, authority: Any, *trusted: Any, expired: bool = False, identity: str = "") -> Any:
        """A new certificate of `authority`; those of `trusted`, or else of `authority`, are the ones to believe. Returns
        `authority`."""
        ends = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
        issued = authority.issue_cert(*filter(None, (self._name, identity)), not_after=ends)
        self.write("ca.crt", b"".join(each.cert_pem.bytes() for each in trusted or (authority,)))
        self.write("tls.key", issued.private_key_pem.bytes())
        self.write("tls.crt", b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return authority

    def write(self, name: str, content: bytes) -> None:
        (self.path / "next").write_bytes(content)
        os.replace(self.path / "next", self.path / name)

    def files(self, refresh: float = 0.05) -> CertificateFiles:
        """They, followed."""
        return CertificateFiles(
            ca=f"{self.path}/ca.crt", certificate=f"{self.path}/tls.crt", key=f"{self.path}/tls.key", refresh=refresh
        )


@contextmanager
def secure_server(files: CertificateFiles, *, health: str = "", address: str = "127.0.0.1:0") -> Iterator[str]:
    """A server's address. It wants clients' certificates and answers every call with the names of the caller's, and says
    `health` of itself where that is given."""

    def who(request: Any, context: Any) -> bytes:
        return b" ".join(context.auth_context()["x509_subject_alternative_name"])

    def follow(request: Any, context: Any) -> Iterator[bytes]:
        """A message every 10 ms until the caller or the server goes."""
        while context.is_active() and not stopping.wait(0.01):
            yield who(request, context)

    def wait(request: Any, context: Any) -> bytes:
        """Until the caller or the server goes."""
        for _ in follow(request, context):
            pass
        return b""

    def chat(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield who(request, context)

    def watch(request: Any, context: Any) -> Iterator[wire.HealthCheckResponse]:
        yield wire.HealthCheckResponse(status=getattr(wire, f"SERVING_STATUS_{health}"))
        while context.is_active() and not stopping.wait(0.01):
            pass

    stopping = threading.Event()
    server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "WaitAll": grpc.stream_unary_rpc_method_handler(wait),
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
        "Upload": grpc.stream_unary_rpc_method_handler(lambda requests, context: who(list(requests), context)),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    if health:
        asked: Any = grpc.unary_stream_rpc_method_handler(
            watch, wire.HealthCheckRequest.FromString, wire.HealthCheckResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": asked}),))
    credentials = files.server_credentials(require_client=True)
    end = files.subscribe(lambda credentials: None)
    try:
        port = server.add_secure_port(address, credentials)
        server.start()
        yield f"127.0.0.1:{port}"
    finally:
        stopping.set()
        end()
        server.stop(None).wait()
