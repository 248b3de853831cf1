"""What tests need of a real Kubernetes API: a namespace of one's own, accounts, kubeconfigs, and a proxy that can fail."""

import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kubernetes import client as api
from kubernetes import config

from .servers import until

GRPC = ({"name": "grpc", "port": 50051, "protocol": "TCP"},)
"""The ports of a slice, unless others are given."""

SERVICE_NAME = "kubernetes.io/service-name"


@functools.cache
def _call(group: str) -> Any:
    """The administrator's client of one API group."""
    loader: Any = config
    settings = api.Configuration()
    loader.load_kube_config(os.environ["KUBECONFIG"], client_configuration=settings, persist_config=False)
    return getattr(api, group)(api.ApiClient(settings))


def ready(*addresses: str) -> list[dict[str, Any]]:
    """Endpoints in the API's form that serve."""
    return [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]


class Namespace:
    """One namespace, written to as a controller would write."""

    def __init__(self, name: str) -> None:
        self.name = name

    def service(self, name: str) -> None:
        """A headless Service without selector."""
        body = {"metadata": {"name": name}, "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 50051}]}}
        _call("CoreV1Api").create_namespaced_service(self.name, body)

    def slice(
        self,
        service: str,
        endpoints: Iterable[dict[str, Any]],
        *,
        name: str = "",
        ports: Iterable[dict[str, Any]] | None = GRPC,
        address_type: str = "IPv4",
        annotations: dict[str, str] | None = None,
    ) -> str:
        """Create or replace one EndpointSlice, `<service>-1` unless it has a name; returns its resourceVersion."""
        name = name or f"{service}-1"
        body = {
            "metadata": {"name": name, "labels": {SERVICE_NAME: service}, "annotations": annotations or {}},
            "addressType": address_type,
            "endpoints": list(endpoints),
            "ports": None if ports is None else list(ports),
        }
        slices = _call("DiscoveryV1Api")
        try:
            done = slices.replace_namespaced_endpoint_slice(name, self.name, body)
        except api.ApiException as error:
            if error.status != 404:
                raise
            done = slices.create_namespaced_endpoint_slice(self.name, body)
        return str(done.metadata.resource_version)

    def delete_slice(self, name: str) -> None:
        _call("DiscoveryV1Api").delete_namespaced_endpoint_slice(name, self.name)

    def account(self, name: str, *verbs: str) -> str:
        """A ServiceAccount that may do `verbs` with the EndpointSlices of this namespace, and nothing else; returns its name."""
        _call("CoreV1Api").create_namespaced_service_account(self.name, {"metadata": {"name": name}})
        if verbs:
            rules = _call("RbacAuthorizationV1Api")
            rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": list(verbs)}
            rules.create_namespaced_role(self.name, {"metadata": {"name": name}, "rules": [rule]})
            binding = {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.name}],
            }
            rules.create_namespaced_role_binding(self.name, binding)
            until(lambda: all(self._allowed(name, verb) for verb in verbs))
        return name

    def _allowed(self, account: str, verb: str) -> bool:
        """The API server learns of a new Role a moment later."""
        what = {"group": "discovery.k8s.io", "resource": "endpointslices", "verb": verb, "namespace": self.name}
        who = f"system:serviceaccount:{self.name}:{account}"
        body = {"spec": {"user": who, "resourceAttributes": what}}
        return bool(_call("AuthorizationV1Api").create_subject_access_review(body).status.allowed)

    def token(self, account: str) -> str:
        """A token as a pod of this account would hold it."""
        made = _call("CoreV1Api").create_namespaced_service_account_token(account, self.name, {"spec": {}})
        return str(made.status.token)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace of its own, deleted afterwards without waiting for it."""
    made = Namespace(f"discovery-{uuid.uuid4().hex[:8]}")
    _call("CoreV1Api").create_namespace({"metadata": {"name": made.name}})
    try:
        yield made
    finally:
        _call("CoreV1Api").delete_namespace(made.name)


@functools.cache
def _current() -> dict[str, Any]:
    """$KUBECONFIG's current context, with everything that files hold written out."""
    view = ["kubectl", "config", "view", "--raw", "--flatten", "--minify", "-o", "json"]
    done = subprocess.run(view, capture_output=True, check=True, timeout=60)
    shown = json.loads(done.stdout)
    return {"cluster": shown["clusters"][0]["cluster"], "user": shown["users"][0]["user"]}


def authority() -> str:
    """The cluster's CA certificate, base64 of PEM."""
    return str(_current()["cluster"]["certificate-authority-data"])


def server() -> tuple[str, int]:
    """Host and port of the API server."""
    host, _, port = _current()["cluster"]["server"].removeprefix("https://").rpartition(":")
    return host, int(port)


def context(*, url: str = "", token: str = "", namespace: str = "") -> dict[str, Any]:
    """A kubeconfig's context: the administrator's, but for what is given. A `url` of https is a proxy to the API server."""
    cluster = dict(_current()["cluster"])
    if url:
        cluster = {**cluster, "server": url, "tls-server-name": server()[0]} if url.startswith("https") else {"server": url}
    return {"cluster": cluster, "user": {"token": token} if token else _current()["user"], "namespace": namespace}


def kubeconfig(path: Path, **contexts: dict[str, Any]) -> str:
    """Write a kubeconfig of some contexts, the first of them current; returns its path."""
    listed: dict[str, list[dict[str, Any]]] = {"clusters": [], "users": [], "contexts": []}
    for name, what in contexts.items():
        listed["clusters"].append({"name": name, "cluster": what["cluster"]})
        listed["users"].append({"name": name, "user": what["user"]})
        own = {"namespace": what["namespace"]} if what["namespace"] else {}
        listed["contexts"].append({"name": name, "context": {"cluster": name, "user": name, **own}})
    shown = {"apiVersion": "v1", "kind": "Config", "current-context": next(iter(contexts)), **listed}
    path.write_text(json.dumps(shown))
    return str(path)


class Proxy:
    """A TCP proxy in front of the API server: it can cut connections, refuse them, or fall silent. `url` leads to it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._refusing = False
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                if self._refusing:
                    near.close()
                    continue
                try:
                    pair = (near, socket.create_connection(server()))
                except OSError:  # the API server itself is down
                    near.close()
                    continue
                self._pairs.append(pair)
                self._threads.append(threading.Thread(target=self._forward, args=pair, daemon=True))
                self._threads[-1].start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with contextlib.suppress(OSError), near, far:
            while True:
                for side in select.select([near, far], [], [])[0]:
                    content = side.recv(2**16)
                    self._open.wait()
                    if not content:
                        return
                    other[side].sendall(content)

    def silence(self) -> None:
        """Forward nothing more, and keep all connections."""
        self._open.clear()

    def refuse(self) -> None:
        """Cut all connections, and close every new one at once."""
        with self._lock:
            self._refusing = True
        self.cut()

    def mend(self) -> None:
        """Forward again."""
        with self._lock:
            self._refusing = False
        self._open.set()

    def cut(self) -> None:
        """Break the connections there are."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection and thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.cut()
        for thread in self._threads:
            thread.join()
