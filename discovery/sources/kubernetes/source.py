"""A Service's EndpointSlices from the Kubernetes API, listed once and then watched.

The permissions needed are get, list, and watch on endpointslices in one namespace.
"""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode, urlsplit

from ...config import Empty, Kubernetes
from ...errors import SourceError
from ...snapshot import Snapshot
from ...target import Target
from . import endpoint_slices
from .endpoint_slices import Slice

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from .connection import Connection, Kubeconfig

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds the credentials of its ServiceAccount."""

WATCH_TIME = 300
"""The minimum of seconds after which the API server ends a watch; the next one continues from there. At most twice that, so that many
clients do not reconnect at once."""

SLOW_RETRY = 10.0
"""Seconds between attempts after errors that need a person to fix them."""

HEAD_START = 0.02
"""Seconds before the first import of what a connection needs. An event loop that opens a channel would otherwise share the interpreter
with the import until the channel is open."""

LONGEST_ERROR = 2**16
"""The bytes that are read of an answer that reports an error."""


class Refusal(Exception):  # noqa: N818
    """An answer other than 200 OK; redirects are not followed."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class KubernetesSource:
    """Every `watch` starts with a list. `files` are those of a kubeconfig; without any, the credentials are the pod's."""

    knows_health: ClassVar[bool] = True
    # After an API server's return, the node controller marks all pods as not ready until their nodes have reported, for about a
    # minute. Accepting sooner that a Service has lost all of its pods has no advantage.
    empty: ClassVar[Empty] = Empty("hold", 120.0)

    def __init__(self, target: Target, settings: Kubernetes, files: tuple[str, ...] = ()) -> None:
        self._target = target
        self._settings = settings
        self._files = files
        self._kubeconfig: Kubeconfig | None = None
        self._connection: Connection | None = None
        self._url = ""
        self._namespace = target.namespace
        self._closed = False

    @property
    def registry(self) -> str:
        """The API server and the namespace, once they are known."""
        return f"{urlsplit(self._url).netloc}/{self._namespace}" if self._url else ""

    def watch(self) -> Iterator[Snapshot]:
        if self._connection is None:
            time.sleep(HEAD_START)
        from .connection import FAILURES, is_of_credentials  # slow to import, so not where a channel is opened

        try:
            yield from self._watch()
        except SourceError:
            if not self._closed:
                raise
        except Refusal as refusal:
            if refusal.status == 410 or self._closed:
                return
            if refusal.status == 401 and self._kubeconfig is not None:
                self._kubeconfig.forget()
            slowly = SLOW_RETRY if refusal.status in (401, 403, 404) else None
            raise SourceError(self._sentence(refusal.status, refusal.body), retry_after=slowly) from None
        except FAILURES as error:
            if is_of_credentials(error) and self._kubeconfig is not None:
                self._kubeconfig.forget()
            if not self._closed:
                raise SourceError(f"the Kubernetes API at {self._url} cannot be read: {_reason(error)}") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if not self._closed:
                raise SourceError(f"the Kubernetes API at {self._url} sent what cannot be read: {_reason(error)}") from None
        finally:
            if self._connection is not None:
                self._connection.close()

    def close(self) -> None:
        self._closed = True
        for each in (self._connection, self._kubeconfig):
            if each is not None:
                each.end()

    def _watch(self) -> Iterator[Snapshot]:
        """One list, and watches for as long as each can continue where the one before has ended."""
        if self._closed:
            return
        connection = self._connect()
        listed = json.loads(self._ask(connection, self._settings.timeout).read())
        slices = {_name(item): endpoint_slices.read(item, self._target.port) for item in listed.get("items") or ()}
        version = str(listed["metadata"]["resourceVersion"])
        yield (last := self._snapshot(slices, None))
        while version and not self._closed:
            begun = time.monotonic()
            for events in self._events(connection, version):
                changed = False  # also without a change, as a sign of progress: bookmarks
                for kind, content in events:
                    if kind == "ERROR":
                        code, message = (content or {}).get("code"), (content or {}).get("message")
                        if code == 410:
                            return  # too old to continue from: the next watch starts with a list
                        raise SourceError(self._sentence(code, message))
                    version = content["metadata"].get("resourceVersion") or version
                    changed = _apply(slices, kind, content, self._target.port) or changed
                yield (last := self._snapshot(slices, last) if changed else last)
            if time.monotonic() - begun < 1:
                return  # do not reconnect without a delay to an API server that ends watches immediately
            before, connection = self.registry, self._connect()
            if self.registry != before:
                return  # versions of another API server mean nothing

    def _connect(self) -> "Connection":
        """A connection to be, with the credentials as they are now; an exec plugin of a kubeconfig may run meanwhile."""
        from .connection import Connection, Kubeconfig, pod_access

        if self._connection is not None:
            self._connection.close()
        if self._files and self._kubeconfig is None:
            self._kubeconfig = Kubeconfig(self._files, self._settings.context)
        if self._kubeconfig is not None and self._closed:
            self._kubeconfig.end()
        try:
            if self._kubeconfig is not None:
                access = self._kubeconfig.access()
            else:
                access = pod_access(Path(ACCOUNT), namespace=not self._target.namespace)
            self._namespace = self._target.namespace or access.namespace or "default"
            self._connection = Connection(access, self._settings.timeout)
        except Exception as error:  # those of the official client and of YAML are many
            text = _reason(error).partition("/{")[0]  # the official client shows whole entries, with their secrets
            raise SourceError(f"the credentials for the Kubernetes API cannot be read: {text}") from None
        self._url = access.url
        if self._closed:
            self._connection.end()
        return self._connection

    def _ask(self, connection: "Connection", silence: float, **watch: object) -> "HTTPResponse":
        """A list, or with `watch` a stream of events. Raises Refusal."""
        query = urlencode({"labelSelector": f"kubernetes.io/service-name={self._target.name}", **watch})
        response = connection.get(f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices?{query}", silence)
        if response.status != 200:
            raise Refusal(response.status, response.read(LONGEST_ERROR))
        return response

    def _events(self, connection: "Connection", version: str) -> Iterator[list[tuple[str, Any]]]:
        """The events since `version`, as many at a time as arrive together. Ends when the server ends the watch."""
        seconds = round(WATCH_TIME * random.uniform(1, 2))
        response = self._ask(
            connection, self._settings.silence,
            watch=True, resourceVersion=version, allowWatchBookmarks=True, timeoutSeconds=seconds,
        )  # fmt: skip
        pieces: list[bytes] = []  # of a line that is not complete
        while chunk := response.read1(2**16):
            whole, newline, rest = chunk.rpartition(b"\n")
            if newline:
                lines = b"".join((*pieces, whole)).split(b"\n")
                pieces.clear()
                if events := [endpoint_slices.event(line) for line in lines if line.strip()]:
                    yield events
            pieces.append(rest)

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
        return f"the Kubernetes API at {self._url} answers {code}: {told} ({_message(body)})"


def _apply(slices: dict[str, Slice], kind: str, content: Any, port: str) -> bool:
    """Apply one event; returns whether anything is different."""
    if kind not in ("ADDED", "MODIFIED", "DELETED"):
        return False  # a bookmark
    name = _name(content)
    before = slices.get(name)
    if kind == "DELETED":
        slices.pop(name, None)
    else:
        slices[name] = endpoint_slices.read(content, port, before)
    return slices.get(name) != before


def _name(content: Any) -> str:
    return str(content["metadata"]["name"])


def _message(body: object) -> str:
    """The message of a Kubernetes Status, or the beginning of any other body."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "no reason given")
    try:
        return str(json.loads(text)["message"])[:500]
    except (ValueError, LookupError, TypeError):
        return text[:200]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
