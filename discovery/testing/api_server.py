"""A Kubernetes API server on loopback that knows EndpointSlices and nothing else: a test writes them, clients list and watch them."""

import contextlib
import http.server
import json
import socket
import ssl
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..config import Config, Kubernetes
from ..errors import DiscoveryError
from ..snapshot import parse_authority

SERVICE_NAME = "kubernetes.io/service-name"
"""The label that names a slice's Service."""

_SLICE_SIZE = 100  # endpoints, as the controller has it
_PATH = "/apis/discovery.k8s.io/v1/namespaces/"
_NO_TRUSTME = "an API server with TLS needs trustme: pip install trustme, or the extra `testing` of grpc-discovery"


class ApiServer:
    """HTTP, or HTTPS with tls=True, on a port of 127.0.0.1. The constructor starts it, `close` ends it.

    kubeconfig: a file by which it is reached, with the namespace `default`.   ca: the file of its CA's certificate, with TLS.
    token: what clients must send, or are answered 401.   bookmarks: seconds between the bookmarks of a watch.   requests: all paths
    that were asked for. Raises DiscoveryError if TLS is wanted and trustme is not installed.
    """

    def __init__(self, *, tls: bool = False, token: str = "testing", bookmarks: float = 60.0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._context: ssl.SSLContext | None = None
        self.ca = ""
        if tls:
            self.ca, self._context = _certificate(self._folder.name)
        self.token = token
        self.bookmarks = bookmarks
        self.requests: list[str] = []
        self._changed = threading.Condition()
        self._slices: dict[tuple[str, str], dict[str, Any]] = {}  # (namespace, name) -> EndpointSlice
        self._events: list[tuple[int, str, dict[str, Any]]] = []  # (version, type, EndpointSlice)
        self._version, self._oldest = 1, 0
        self._status = 0
        self._frozen = False
        self._server: _Server | None = None
        self.port = 0
        self.start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.kubeconfig = f"{self._folder.name}/kubeconfig"
        Path(self.kubeconfig).write_text(json.dumps(self._kubeconfig()))

    def _kubeconfig(self) -> dict[str, object]:
        cluster = {"server": self.url, **({"certificate-authority": self.ca} if self.ca else {})}
        context = {"cluster": "testing", "user": "testing", "namespace": "default"}
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "testing",
            "clusters": [{"name": "testing", "cluster": cluster}],
            "users": [{"name": "testing", "user": {"token": self.token}}],
            "contexts": [{"name": "testing", "context": context}],
        }  # fmt: skip

    @property
    def config(self) -> Config:
        """The options of a channel that reads it, with times short enough for a test."""
        return Config(kubernetes=self.settings())

    def settings(self, **others: str | float) -> Kubernetes:
        """`config.kubernetes`, with other values for some fields."""
        return Kubernetes(**{"kubeconfig": self.kubeconfig, "timeout": 2.0, **others})  # type: ignore[arg-type]

    def set(self, service: str, addresses: Iterable[str], namespace: str = "default") -> None:
        """Make these `host:port` all endpoints of `kubernetes:///service.namespace:grpc`, in slices as the controller writes them."""
        by_port: dict[tuple[str, int], list[str]] = defaultdict(list)
        for host, port in map(parse_authority, addresses):
            by_port["IPv6" if ":" in host else "IPv4", port].append(host)
        wanted = {
            f"{service}-{kind.lower()}-{port}-{start}": {
                "addressType": kind,
                "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": [host], "conditions": {"ready": True}} for host in hosts[start : start + _SLICE_SIZE]
                ],
            }
            for (kind, port), hosts in by_port.items()
            for start in range(0, len(hosts), _SLICE_SIZE)
        }
        with self._changed:
            for (_, name), known in list(self._slices.items()):
                if name not in wanted and _is_of(known, namespace, service):
                    self.delete(name, namespace)
            for name, content in wanted.items():
                known = self._slices.get((namespace, name), {})
                if any(known.get(field) != value for field, value in content.items()):
                    self.apply({"metadata": {"name": name, "labels": {SERVICE_NAME: service}}, **content}, namespace)

    def apply(self, content: dict[str, Any], namespace: str = "default") -> str:
        """Create or replace one EndpointSlice as it is given; returns its resourceVersion. `metadata` must have a name, and its labels
        SERVICE_NAME."""
        key = namespace, content["metadata"]["name"]
        with self._changed:
            self._slices[key] = self._note("MODIFIED" if key in self._slices else "ADDED", content, namespace)
            return str(self._version)

    def delete(self, name: str, namespace: str = "default") -> None:
        """Delete one EndpointSlice. Raises KeyError if there is none."""
        with self._changed:
            self._note("DELETED", self._slices.pop((namespace, name)), namespace)

    def slices(self) -> list[dict[str, Any]]:
        """The EndpointSlices of all namespaces."""
        with self._changed:
            return list(self._slices.values())

    def _note(self, kind: str, content: dict[str, Any], namespace: str) -> dict[str, Any]:
        self._version += 1
        metadata = {**content["metadata"], "namespace": namespace, "resourceVersion": str(self._version)}
        noted = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", **content, "metadata": metadata}
        self._events.append((self._version, kind, noted))
        self._changed.notify_all()
        return noted

    def compact(self) -> None:
        """Forget all events: watches, those that are open too, are answered 410 and must list again."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._events.clear()
            self._changed.notify_all()

    def fail(self, status: int) -> None:
        """End all watches, and from now on answer every request with this HTTP status, such as 503; 0 ends it."""
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def freeze(self) -> None:
        """From now on answer and tell nothing; connections stay."""
        self._frozen = True

    def thaw(self) -> None:
        """Resume after `freeze`."""
        with self._changed:
            self._frozen = False
            self._changed.notify_all()

    def start(self) -> None:
        """Serve again after `stop`, on the same port and with the same slices."""
        if self._server is None:
            self._server = _Server(self, self.port, self._context)
            self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Close every connection; nothing listens on its port."""
        server, self._server = self._server, None
        if server is not None:
            server.end()
            with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        """Stop it, and delete its files."""
        self.stop()
        self._folder.cleanup()

    def answer(self, request: "_Request") -> None:
        """Answer a GET: a list, a watch, or an error."""
        self.requests.append(request.path)
        url = urlsplit(request.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        namespace, _, resource = url.path.removeprefix(_PATH).partition("/")
        service = query.get("labelSelector", "").partition("=")[2]
        with self._changed:
            self._changed.wait_for(lambda: not self._frozen or self._server is not request.server)
            version, listed = self._version, [content for content in self._slices.values() if _is_of(content, namespace, service)]
        if self._status:
            request.respond(self._status, _failure(self._status))
        elif self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            request.respond(401, _failure(401))
        elif not url.path.startswith(_PATH) or resource != "endpointslices":
            request.respond(404, _failure(404))
        elif query.get("watch", "").lower() not in ("true", "1"):
            kind = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1"}
            request.respond(200, {**kind, "metadata": {"resourceVersion": str(version)}, "items": listed})
        else:
            end = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
            request.stream(self._watch(request, namespace, service, int(query.get("resourceVersion") or version), end))

    def _watch(self, request: "_Request", namespace: str, service: str, seen: int, end: float) -> Iterator[dict[str, Any]]:
        bookmark = time.monotonic() + self.bookmarks
        while True:
            with self._changed:
                while self._server is request.server and not self._status and (self._version <= seen or self._frozen):
                    wait = (end if self._frozen else min(end, bookmark)) - time.monotonic()
                    if wait <= 0:
                        break
                    self._changed.wait(wait)
                if self._server is not request.server or self._status or time.monotonic() >= end:
                    return
                expired, events = seen < self._oldest, [event for event in self._events if event[0] > seen]
                seen = self._version
            if expired:
                yield {"type": "ERROR", "object": _failure(410)}
                return
            yield from ({"type": kind, "object": each} for _, kind, each in events if _is_of(each, namespace, service))
            if time.monotonic() >= bookmark:
                bookmark = time.monotonic() + self.bookmarks
                yield {"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(seen)}}}


def _certificate(folder: str) -> tuple[str, ssl.SSLContext]:
    try:
        import trustme
    except ModuleNotFoundError:
        raise DiscoveryError(_NO_TRUSTME) from None
    authority, path = trustme.CA(), f"{folder}/ca.crt"
    authority.cert_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return path, context


def _is_of(content: dict[str, Any], namespace: str, service: str) -> bool:
    metadata = content["metadata"]
    return metadata["namespace"] == namespace and service in ("", (metadata.get("labels") or {}).get(SERVICE_NAME))


def _failure(status: int) -> dict[str, object]:
    """A Status, as the API server sends with an error."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": f"the test says {status}"}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: ApiServer, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.api = api
        self._connections: set[socket.socket] = set()
        if context is not None:  # each connection shakes hands on its own thread
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.01,), name="API server", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes is no error worth a traceback."""

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.api.answer(self)

    def _begin(self, status: int, header: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header(*header)
        self.end_headers()

    def respond(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self._begin(status, ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def stream(self, events: Iterator[dict[str, Any]]) -> None:
        self._begin(200, ("Transfer-Encoding", "chunked"))
        for event in events:
            line = f"{json.dumps(event)}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def api_server(*, tls: bool = False) -> Iterator[ApiServer]:
    """An API server for the block.

    with testing.api_server() as registry:
        registry.set("greeter", ["127.0.0.1:50051"])
        channel = discovery.insecure_channel("kubernetes:///greeter.default:grpc", config=registry.config)
    """
    server = ApiServer(tls=tls)
    try:
        yield server
    finally:
        server.close()
