"""What is around the server: certificates, and an endpoint for its telemetry."""

import contextlib
import http.server
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import trustme

CLIENT = "client.lab"
_FILES = {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}


@contextlib.contextmanager
def certificates() -> Iterator[tuple[dict[str, str], grpc.ChannelCredentials]]:
    """The server's settings for mTLS, with a rule for the client; and the client's credentials."""
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert(CLIENT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority.cert_pem.write_to_path(folder / "ca.crt")
        server.cert_chain_pems[0].write_to_path(folder / "tls.crt")
        server.private_key_pem.write_to_path(folder / "tls.key")
        settings = {"TLS__MODE": "mtls", "TLS__ALLOWED_CLIENTS": json.dumps([CLIENT])}
        settings |= {f"TLS__{setting}": os.fspath(folder / file) for setting, file in _FILES.items()}
        yield (
            settings,
            grpc.ssl_channel_credentials(
                authority.cert_pem.bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
            ),
        )


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, Counter[str]]]:
    """An OTLP/HTTP endpoint, and how often each of its paths was sent to."""
    exported: Counter[str] = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            exported[self.path] += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", exported
    finally:
        server.shutdown()
        server.server_close()
