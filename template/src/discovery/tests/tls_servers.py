"""Real TLS for tests: authorities, files in the layout of a mounted Secret, and servers that follow them."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from ..certificates import CertificateFiles

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

    def issue(self, authority: Any, *trusted: Any, expired: bool = False, identity: str = "") -> None:
        """A new certificate of `authority`; those of `trusted`, or else of `authority`, are the ones to believe."""
        ends = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
        issued = authority.issue_cert(*filter(None, (self._name, identity)), not_after=ends)
        self.write("ca.crt", b"".join(each.cert_pem.bytes() for each in trusted or (authority,)))
        self.write("tls.key", issued.private_key_pem.bytes())
        self.write("tls.crt", b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def write(self, name: str, content: bytes) -> None:
        (self.path / "next").write_bytes(content)
        os.replace(self.path / "next", self.path / name)

    def files(self, refresh: float = 0.05) -> CertificateFiles:
        """They, followed."""
        return CertificateFiles(
            ca=f"{self.path}/ca.crt", certificate=f"{self.path}/tls.crt", key=f"{self.path}/tls.key", refresh=refresh
        )


@contextmanager
def secure_server(files: CertificateFiles, *, clients: bool = True) -> Iterator[str]:
    """A server's address; it answers who called, and wants certificates of `clients`."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        pem = files.pem
        return grpc.ssl_server_certificate_configuration([(pem.key or b"", pem.certificate or b"")], pem.ca)

    def who(request: bytes, context: Any) -> bytes:
        return b" ".join(context.auth_context().get("x509_subject_alternative_name", [b"nobody"]))

    def follow(request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    credentials = grpc.dynamic_ssl_server_credentials(configuration(), configuration, clients)
    end = files.subscribe(lambda credentials: None)
    try:
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
    finally:
        end()
        server.stop(None).wait()
