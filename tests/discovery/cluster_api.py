"""What tests need of a real Kubernetes API: a namespace of one's own, accounts, kubeconfigs, and a watch to look at."""

import contextlib
import functools
import json
import os
import queue
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kubernetes import client as api
from kubernetes import config

from discovery.config import Config, Kubernetes
from discovery.snapshot import Snapshot
from discovery.sources.kubernetes import open_source
from discovery.sources.kubernetes.source import KubernetesSource
from discovery.target import parse

from .servers import DEADLINE, until

GRPC = ({"name": "grpc", "port": 50051, "protocol": "TCP"},)
"""The ports of a slice, unless others are given."""

SERVICE_NAME = "kubernetes.io/service-name"


ADMINISTRATOR = os.environ.get("KUBECONFIG", "")
"""Read now, because tests change the variable."""


@functools.cache
def _call(group: str) -> Any:
    """The administrator's client of one API group."""
    loader: Any = config
    settings = api.Configuration()
    loader.load_kube_config(ADMINISTRATOR, client_configuration=settings, persist_config=False)
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


def service_address(namespace: str, name: str) -> str:
    """The ClusterIP of a Service."""
    return str(_call("CoreV1Api").read_namespaced_service(name, namespace).spec.cluster_ip)


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
    """The administrator's current context, with everything that files hold written out."""
    view = ["kubectl", f"--kubeconfig={ADMINISTRATOR}", "config", "view", "--raw", "--flatten", "--minify", "-o", "json"]
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


def opened(target: str, **settings: Any) -> KubernetesSource:
    return open_source(parse(target), Config(kubernetes=Kubernetes(**settings)))


def first(target: str, **settings: Any) -> Snapshot:
    """What the list says."""
    return next(opened(target, **settings).watch())


def found(snapshot: Snapshot) -> set[str]:
    return {endpoint.address for endpoint in snapshot.endpoints}


class Watch:
    """One `watch` on a thread of its own, and what came out of it."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self._last: Snapshot | None = None
        self._said: queue.Queue[Snapshot | Exception | None] = queue.Queue()
        self.asked: queue.Queue[dict[str, Any]] = queue.Queue()
        ask = source._ask

        def noted(*given: Any, **watch: Any) -> Any:
            response = ask(*given, **watch)
            self.asked.put(watch)
            return response

        source._ask = noted  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        _running.append(self)

    def _run(self) -> None:
        try:
            for snapshot in self.source.watch():
                self._said.put(snapshot)
            self._said.put(None)
        except Exception as error:
            self._said.put(error)

    def watching(self) -> dict[str, Any]:
        """Wait until a watch was answered; returns what was asked."""
        while not (asked := self.asked.get(timeout=DEADLINE)):
            pass
        return asked

    def _next(self) -> Snapshot | Exception | None:
        """What came next; a source may tell an equal set again, as a sign of life."""
        while True:
            said = self._said.get(timeout=DEADLINE)
            if not isinstance(said, Snapshot):
                return said
            last, self._last = self._last, said
            if last is None or (last.endpoints, last.problems) != (said.endpoints, said.problems):
                return said

    def next(self) -> Snapshot:
        """The next set that is another."""
        said = self._next()
        assert isinstance(said, Snapshot), repr(said)
        return said

    def sees(self, *addresses: str) -> None:
        """The next set is this one."""
        assert found(self.next()) == set(addresses)

    def end(self) -> Exception | None:
        """How it ended, without a further set."""
        said = self._next()
        assert not isinstance(said, Snapshot), found(said)
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        return said

    def close(self) -> None:
        """Close as a resolver does: promptly and without an error."""
        self.source.close()
        assert self.end() is None


_running: list[Watch] = []


def end_watches() -> None:
    """After a test: end what it began."""
    while _running:
        watch = _running.pop()
        watch.source.close()
        watch.thread.join(DEADLINE)
        assert not watch.thread.is_alive()
