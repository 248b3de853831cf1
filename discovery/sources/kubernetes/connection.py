"""How the API server is reached: credentials of a pod or of a kubeconfig in, an HTTP connection out.

Requests are made with the standard library alone. The official client, 0.3 s and 25 MB, only reads kubeconfigs.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PLUGIN_TIMEOUT = 60.0
"""Seconds after which an exec plugin of a kubeconfig is killed."""

FAILURES: tuple[type[Exception], ...] = (OSError, http.client.HTTPException)
"""What a connection raises when it fails."""


def is_of_credentials(error: Exception) -> bool:
    """Whether a failure may be one of certificates, rather than of the network."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


@dataclass(frozen=True, slots=True)
class Access:
    """What a connection needs, and the namespace for targets without one. `expires` is in seconds since 1970."""

    url: str
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    proxy: str = field(default="", repr=False)
    namespace: str = ""
    expires: float = float("inf")


class Connection(http.client.HTTPConnection):
    """One connection to an API server, for one request at a time."""

    def __init__(self, access: Access, timeout: float) -> None:
        server = urlsplit(access.url)
        host, port = server.hostname or "", server.port or (443 if access.tls else 80)
        self._access = access
        self._prefix = server.path.rstrip("/")
        self._server_name = access.server_name or host
        self._socket: socket.socket | None = None
        self._ended = False
        if not access.proxy:
            super().__init__(host, port, timeout)
            return
        proxy = urlsplit(access.proxy if "://" in access.proxy else f"http://{access.proxy}")
        if proxy.scheme != "http":
            raise ValueError(f"a proxy of scheme '{proxy.scheme}' cannot be used, only one of http")
        super().__init__(proxy.hostname or "", proxy.port or 80, timeout)
        login = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
        headers = {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"} if proxy.username else {}
        self.set_tunnel(host, port, headers)

    def connect(self) -> None:
        """Each step can be interrupted by `end`: the TCP connection, a proxy's answer, and the TLS handshake."""
        failure = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            self.sock = socket.socket(family, kind, protocol)
            try:
                self._hold(self.sock)
                self.sock.connect(address)
                break
            except OSError as error:
                self.sock.close()
                failure = error
        else:
            raise failure
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._access.proxy:
            self._tunnel()  # type: ignore[attr-defined]
        if self._access.tls:
            self.sock = self._access.tls.wrap_socket(self.sock, server_hostname=self._server_name, do_handshake_on_connect=False)
            self._hold(self.sock)
            self.sock.do_handshake()

    def _hold(self, made: socket.socket) -> None:
        """Record the socket that `end` shuts down."""
        self._socket = made
        made.settimeout(self.timeout)
        if self._ended:
            raise ConnectionAbortedError("the source was closed")

    def end(self) -> None:
        """Break off whatever is in progress; nothing else wakes a thread that waits for an answer. Called from any thread."""
        self._ended = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # SSLSocket's own would disturb the thread that reads

    def get(self, path: str, silence: float) -> http.client.HTTPResponse:
        """The answer, whatever its status. `silence` is the longest one in seconds."""
        if self.sock is None:
            self.connect()
        self.sock.settimeout(silence)
        headers = {"Accept": "application/json", "User-Agent": "grpc-discovery"}
        if self._access.authorization:
            headers["Authorization"] = self._access.authorization
        self.request("GET", self._prefix + path, headers=headers)
        return self.getresponse()


def pod_access(folder: Path, *, namespace: bool) -> Access:
    """A pod's ServiceAccount. Read anew for every connection, because the kubelet replaces token and CA; the namespace if it is needed."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
    return Access(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        _header(f"Bearer {(folder / 'token').read_text().strip()}"),
        _tls(str(folder / "ca.crt")),
        namespace=(folder / "namespace").read_text().strip() if namespace else "",
    )


class Kubeconfig:
    """The files of a kubeconfig. What they say is kept until one of them changes, it expires, or it is forgotten."""

    def __init__(self, files: tuple[str, ...], context: str) -> None:
        self._files = files
        self._context = context
        self._known: Access | None = None
        self._signature: object = None
        self._plugin: subprocess.Popen[bytes] | None = None
        self._ended = False

    def access(self) -> Access:
        signature = [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in map(os.stat, filter(os.path.exists, self._files))]
        if self._known is None or signature != self._signature or time.time() >= self._known.expires:
            self._known = None
            self._known, self._signature = self._load(), signature
        return self._known

    def forget(self) -> None:
        """The credentials have stopped working: read them anew the next time."""
        self._known = None

    def end(self) -> None:
        """Kill an exec plugin that runs. Called from any thread."""
        self._ended = True
        if self._plugin is not None:
            _kill(self._plugin)

    def _load(self) -> Access:
        try:
            from kubernetes import client
            from kubernetes.client import rest
            from kubernetes.config import kube_config
        except ImportError as error:
            raise ValueError(f"the library kubernetes, which must be 33 or newer, cannot be imported: {error}") from None
        config: Any = kube_config  # it has no types
        merged = config.KubeConfigMerger(os.pathsep.join(self._files)).config
        if merged is None:
            raise ValueError("no configuration found")
        context = merged["contexts"].get_with_name(self._context or merged["current-context"])["context"]
        cluster = merged["clusters"].get_with_name(context["cluster"])["cluster"].value
        user = merged["users"].get_with_name(context.safe_get("user"), safe=True)
        secrets: dict[str, Any] = (user.value["user"] or {}) if user is not None else {}
        expires = float("inf")
        if "exec" in secrets and not secrets.keys() & {"auth-provider", "token", "tokenFile"}:
            secrets |= self._run(secrets.pop("exec"), cluster, os.path.dirname(user.path))
            if expiry := secrets.pop("expirationTimestamp", ""):
                expires = datetime.fromisoformat(expiry).timestamp() - 10
        # The library would write these into files in /tmp that stay, or that are removed while they are needed.
        authority, *pair = (
            base64.b64decode(entry.pop(f"{key}-data", "") or "")
            for entry, key in ((cluster, "certificate-authority"), (secrets, "client-certificate"), (secrets, "client-key"))
        )
        loaded = client.Configuration()
        config.KubeConfigLoader(merged, self._context or None, config_base_path=None).load_and_set(loaded)
        tls = None
        if loaded.host.startswith("https"):
            tls = _tls(None if authority else loaded.ssl_ca_cert, authority.decode("ascii", "ignore"))
            if not loaded.verify_ssl:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            files = loaded.cert_file, loaded.key_file
            pair = [data or (Path(file).read_bytes() if file else b"") for data, file in zip(pair, files, strict=True)]
            if all(pair):
                import tempfile  # 0.4 MB that a pod does without

                with tempfile.NamedTemporaryFile() as file:  # OpenSSL reads them from a file only
                    file.write(b"\n".join(pair))
                    file.flush()
                    tls.load_cert_chain(file.name, password="")  # not asked for on a terminal
        proxy = cluster.get("proxy-url") or ""
        if not proxy and loaded.proxy and not rest.should_bypass_proxies(loaded.host, loaded.no_proxy or ""):
            proxy = loaded.proxy  # of the environment
        authentication: Any = loaded.auth_settings()
        authorization = _header((authentication.get("BearerToken") or {}).get("value") or "")
        namespace = context.safe_get("namespace") or ""
        return Access(loaded.host, authorization, tls, cluster.get("tls-server-name") or "", proxy, namespace, expires)

    def _run(self, plugin: dict[str, Any], cluster: dict[str, Any], folder: str) -> dict[str, Any]:
        """Run an exec plugin (client.authentication.k8s.io); returns what it adds to the user. The official client would wait forever."""
        spec: dict[str, Any] = {"interactive": False}
        if plugin.get("provideClusterInfo"):
            extensions = {each["name"]: each["extension"] for each in cluster.get("extensions") or ()}
            spec["cluster"] = cluster | {"config": extensions.get("client.authentication.k8s.io/exec")}
        name, asked = plugin["command"], {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
        variables = {item["name"]: item["value"] for item in plugin.get("env") or ()}
        with subprocess.Popen(
            [name, *(plugin.get("args") or ())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder or None,
            env=os.environ | variables | {"KUBERNETES_EXEC_INFO": json.dumps(asked)},
            start_new_session=True,  # so that its children can be killed with it
        ) as self._plugin:  # fmt: skip
            try:
                output, complaint = self._plugin.communicate(timeout=0 if self._ended else PLUGIN_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise ValueError(f"the exec plugin '{name}' took more than {PLUGIN_TIMEOUT:g} s") from None
            finally:
                _kill(self._plugin)
        if self._plugin.returncode:
            told = complaint.decode(errors="replace").strip()[-300:]
            raise ValueError(f"the exec plugin '{name}' failed with code {self._plugin.returncode}: {told}")
        try:
            status = json.loads(output)["status"]
            given = {"token": status.get("token"), "expirationTimestamp": status.get("expirationTimestamp")}
            for key, name in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
                given[key] = base64.b64encode(status.get(name, "").encode()).decode()
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"the exec plugin '{name}' printed no ExecCredential with a status") from None
        return {key: value for key, value in given.items() if value}


def _kill(plugin: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if plugin.returncode is None:
            os.killpg(plugin.pid, signal.SIGKILL)


def _tls(file: str | None, data: str = "") -> ssl.SSLContext:
    """Verify by the CAs in `file` or `data`, or else by the system's."""
    made = ssl.create_default_context(cafile=file, cadata=data or None)
    # The default since Python 3.13, but the CAs of many clusters lack an extension that it requires.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made


def _header(authorization: str) -> str:
    """http.client's own error would contain the token."""
    if not authorization.isascii() or not authorization.isprintable():
        raise ValueError("the token holds characters that cannot be in one")
    return authorization
