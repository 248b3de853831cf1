"""A Service's EndpointSlices from the Kubernetes API, listed once and then watched (scheme kubernetes).

The official client finds the API server and renews the credentials; responses are parsed as plain JSON, because its models cost
twenty times as much. The permissions needed are get, list, and watch on endpointslices in one namespace.
"""

import contextlib
import json
import os
import random
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import urllib3.exceptions
from kubernetes import client as api
from kubernetes import config

from ..config import Config, Empty, Kubernetes
from ..errors import SourceError, TargetError
from ..snapshot import Snapshot
from ..target import Target
from . import endpoint_slices
from .endpoint_slices import Slice

credentials: Any = config  # it has no types

WATCH_TIME = 300
"""The minimum of seconds after which the API server ends a watch; the next one continues from there. At most twice that, so that many
clients do not reconnect at once."""

SLOW_RETRY = 10.0
"""Seconds between attempts after errors that need a person to fix them."""

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesSource:
    """Every `watch` starts with a list. Raises TargetError if there are no credentials."""

    knows_health: ClassVar[bool] = True
    # After an API server's return, the node controller marks all pods as not ready until their nodes have reported, for about a
    # minute. Accepting sooner that a Service has lost all of its pods has no advantage.
    empty: ClassVar[Empty] = Empty("hold", 120.0)
    registry = ""

    def __init__(self, target: Target, settings: Kubernetes) -> None:
        self._target = target
        self._settings = settings
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._closed = False
        self._connect()

    def watch(self) -> Iterator[Snapshot]:
        try:
            if self._closed:
                return
            listed = json.loads(self._ask().data)
            slices = {_name(item): endpoint_slices.read(item, self._target.port) for item in listed.get("items") or ()}
            version = str(listed["metadata"]["resourceVersion"])
            yield (last := self._snapshot(slices, None))
            while version and not self._closed:
                begun = time.monotonic()
                for events in self._events(version):
                    changed = False  # also without a change, as a sign of progress: bookmarks
                    for kind, content in events:
                        if kind == "ERROR":
                            if (content or {}).get("code") == 410:
                                return  # too old to continue from: the next watch starts with a list
                            raise SourceError(self._sentence((content or {}).get("code"), (content or {}).get("message")))
                        version = content["metadata"].get("resourceVersion") or version
                        changed = _apply(slices, kind, content, self._target.port) or changed
                    yield (last := self._snapshot(slices, last) if changed else last)
                if time.monotonic() - begun < 1:
                    return  # do not reconnect without a delay to an API server that ends watches immediately
        except api.ApiException as error:
            if error.status == 410 or self._closed:
                return
            if not error.status:  # the client's form of urllib3's SSLError
                raise SourceError(
                    f"the Kubernetes API at {self._api.configuration.host} cannot be read: {' '.join(str(error.reason).split())}"
                ) from None
            if error.status == 401:
                with contextlib.suppress(TargetError):  # the next answer is 401 again, after which they are read again
                    self._connect()
            slowly = SLOW_RETRY if error.status in (401, 403, 404) else None
            raise SourceError(self._sentence(error.status, error.body), retry_after=slowly) from None
        except config.ConfigException as error:  # the token is read again every minute
            raise SourceError(f"the credentials for the Kubernetes API cannot be read: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if not self._closed:
                raise SourceError(
                    f"the Kubernetes API at {self._api.configuration.host} cannot be read: {_reason(error)}"
                ) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if not self._closed:
                what = f"{type(error).__name__}: {error}"
                raise SourceError(
                    f"the Kubernetes API at {self._api.configuration.host} sent what cannot be read: {what}"
                ) from None

    def close(self) -> None:
        self._closed = True
        for each in list(self._sockets):
            self._connected(each)

    def _connect(self) -> None:
        self._api, self._namespace = _client(self._target, self._settings)
        _tell_connections(self._api, self._connected)

    def _connected(self, each: socket.socket) -> None:
        """Record a socket, or close it if this source was closed; nothing else wakes a thread that waits for an answer."""
        self._sockets.add(each)
        if self._closed:
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _ask(self, **watch: Any) -> urllib3.BaseHTTPResponse:
        """A list, or with `watch` a stream of events."""
        slices: Any = api.DiscoveryV1Api(self._api)
        response: urllib3.BaseHTTPResponse = slices.list_namespaced_endpoint_slice(
            self._namespace,
            label_selector=f"kubernetes.io/service-name={self._target.name}",
            _preload_content=False,
            _request_timeout=(self._settings.timeout, self._settings.silence if watch else self._settings.timeout),
            **watch,
        )
        return response

    def _events(self, version: str) -> Iterator[list[tuple[str, Any]]]:
        """The events since `version`, one chunk at a time. Ends when the server ends the watch."""
        seconds = round(WATCH_TIME * random.uniform(1, 2))
        response = self._ask(watch=True, resource_version=version, allow_watch_bookmarks=True, timeout_seconds=seconds)
        try:
            rest = b""
            for chunk in response.stream(2**16, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                if events := [json.loads(line) for line in lines if line.strip()]:
                    yield [(event["type"], event["object"]) for event in events]
        finally:
            response.close()

    def _snapshot(self, slices: dict[str, Slice], last: Snapshot | None) -> Snapshot:
        where = f"Service '{self._target.name}' in namespace '{self._namespace}'"
        if not slices:
            return Snapshot(problems=(f"{where} has no EndpointSlice: check both names, and that the Service has a selector",))
        endpoints, problems = endpoint_slices.merge(slices.values())
        if lacking := [part.other_ports for part in slices.values() if part.other_ports]:
            wanted = f"no port '{self._target.port}'" if self._target.port else "several ports, none of them called 'grpc'"
            others = ", ".join(sorted(set().union(*lacking)))
            sentence = f"{where} has {wanted}; there are: {others}; name one as in kubernetes:///{self._target.name}:grpc"
            if not endpoints:
                raise SourceError(sentence, retry_after=SLOW_RETRY)
            problems.append(sentence)
        return Snapshot.of(endpoints, problems, last=last)

    def _sentence(self, code: object, body: object) -> str:
        what = f"EndpointSlices in namespace '{self._namespace}'"
        advice = {
            401: "it does not accept the credentials: renew them, or choose others in the kubeconfig",
            403: f"the account may not read {what}: bind it to a Role with get, list and watch on endpointslices in discovery.k8s.io",
            404: f"it knows no {what}: it must be Kubernetes 1.21 or newer",
        }
        told = advice.get(code, "it failed") if isinstance(code, int) else "it failed"
        return f"the Kubernetes API at {self._api.configuration.host} answers {code}: {told} ({_message(body)})"


def _apply(slices: dict[str, Slice], kind: str, content: Any, port: str) -> bool:
    """Apply one event; returns whether anything is different."""
    if kind not in ("ADDED", "MODIFIED", "DELETED"):
        return False  # a bookmark
    name = _name(content)
    before = slices.get(name)
    if kind == "DELETED":
        slices.pop(name, None)
    else:
        slices[name] = endpoint_slices.read(content, port)
    return slices.get(name) != before


def _name(content: Any) -> str:
    return str(content["metadata"]["name"])


def _client(target: Target, settings: Kubernetes) -> tuple[api.ApiClient, str]:
    """A client with credentials, and the namespace for targets without one."""
    configuration = api.Configuration()
    chosen = settings.kubeconfig or settings.context or os.environ.get("KUBECONFIG")
    unreadable = credentials.kube_config.yaml.YAMLError
    try:
        if not chosen and os.path.exists(f"{_ACCOUNT}/token"):
            credentials.load_incluster_config(client_configuration=configuration)
            with open(f"{_ACCOUNT}/namespace") as file:
                own = file.read().strip()
        else:
            # The library reads the variable once, when it is imported.
            file_name = settings.kubeconfig or os.environ.get("KUBECONFIG") or None
            context = settings.context or None
            credentials.load_kube_config(file_name, context, client_configuration=configuration, persist_config=False)
            contexts, current = credentials.list_kube_config_contexts(file_name)
            named = next((item for item in contexts if item["name"] == context), current)
            own = (named.get("context") or {}).get("namespace", "")
    except (credentials.ConfigException, unreadable, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise TargetError(
            f"target '{target}': there are no credentials for a Kubernetes API ({reason}); run in a pod, set KUBECONFIG, "
            f"or name a file in Kubernetes(kubeconfig=...)"
        ) from None
    configuration.retries = False  # only the resolver retries
    return api.ApiClient(configuration), target.namespace or own or "default"


def _tell_connections(client: api.ApiClient, connected: Callable[[socket.socket], None]) -> None:
    """Make urllib3 report every socket that it has connected."""
    manager: Any = client.rest_client.pool_manager

    def telling(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                made: Any = self.sock
                connected(getattr(made, "socket", made))  # TLS inside a proxy's TLS has no file descriptor

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    manager.pool_classes_by_scheme = {scheme: telling(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


def _message(body: object) -> str:
    """The message of a Kubernetes Status, or the beginning of any other body."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "no reason given")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text[:200]


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason else error
    return f"{type(cause).__name__}: {str(cause).rpartition('>: ')[2] or cause}"


def open_source(target: Target, config: Config) -> KubernetesSource:
    """The source of a `kubernetes:///service[.namespace][:port]` target; `config.kubernetes` applies."""
    return KubernetesSource(target, config.kubernetes)
