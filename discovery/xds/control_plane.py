"""Snapshots in, xDS out: an aggregated discovery service (ADS) inside this process, for gRPC's own xDS client.

It implements the State-of-the-World variant of the xDS transport protocol, on a unix socket that only this user can reach. It
handles names and resources, not registries.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import grpc

from ..errors import ControlPlaneError
from ..snapshot import Snapshot
from ..wire import messages_pb2 as xds
from .resources import ASSIGNMENT, CLUSTER, LISTENER, TYPE_PREFIX, Resource, TargetResources

logger = logging.getLogger(__package__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_LONGEST_PATH = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere

OnNack = Callable[[str], None]


class _DaemonThreads(Executor):
    """A daemon thread per stream: an executor that is joined at exit would block the interpreter while a channel is open."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # passed to the future's owner, as every executor does
                future.set_exception(error)

        threading.Thread(target=run, name="discovery control plane", daemon=True).start()
        return future


def _daemon_threads() -> Any:
    """gRPC takes any Executor; its type stubs say ThreadPoolExecutor."""
    return _DaemonThreads()


INTERFACE = 1
"""The version of the interface between copies of this library in one process: `add`, `publish`, and `remove` here, and what they use
of TargetResources and Resource. Increased by incompatible changes."""


class ControlPlane:
    """One per process, shared by every copy of this library in it. The constructor starts it, `close` stops it; published sets remain
    until `remove`.

    Raises ControlPlaneError if there is no directory for the socket.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._directory = _private_directory()
        self.server_uri = f"unix:{self._directory}/ads"
        self._lock = threading.Lock()
        self._targets: dict[str, TargetResources] = {}
        self._on_nack: dict[str, OnNack] = {}
        self._streams: set[_Stream] = set()
        self._server = grpc.server(_daemon_threads(), options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=xds.DiscoveryRequest.FromString,
            response_serializer=xds.DiscoveryResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": handler}),)
        )
        self._server.add_insecure_port(self.server_uri)
        self._server.start()

    def add(self, name: str, resources: TargetResources, on_nack: OnNack) -> None:
        """Start serving `name`; nothing is sent before its first `publish`, so that gRPC waits instead of failing."""
        with self._lock:
            self._targets[name] = resources
            self._on_nack[name] = on_nack

    def publish(self, name: str, snapshot: Snapshot) -> None:
        """Send gRPC this set. Returns when it is queued; gRPC applies it some milliseconds later."""
        with self._lock:
            target = self._targets.get(name)
            if target is not None and target.update(snapshot):
                self._wake(name)

    def remove(self, name: str) -> None:
        """Stop serving `name`, after its last channel was closed."""
        with self._lock:
            self._targets.pop(name, None)
            self._on_nack.pop(name, None)

    def close(self) -> None:
        """Stop the server and remove the socket. Open channels keep their last set."""
        self.remove_socket()
        self._server.stop(None)

    def remove_socket(self) -> None:
        """Leave nothing on disk; in a forked child nothing happens, the socket is the parent's."""
        if os.getpid() == self._process:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _wake(self, name: str) -> None:
        for stream in self._streams:
            if name in stream.targets:
                stream.wake.notify()

    def _serve(self, requests: Iterator[xds.DiscoveryRequest], context: grpc.ServicerContext) -> Iterator[xds.DiscoveryResponse]:
        """One ADS stream: gRPC opens one per target, shared by the channels to it. Requests are read on a second thread."""
        stream = _Stream(threading.Condition(self._lock))
        with self._lock:
            self._streams.add(stream)
        context.add_callback(lambda: self._end(stream))
        threading.Thread(target=self._listen, args=(stream, requests), name="discovery ADS requests", daemon=True).start()
        while True:
            with self._lock:
                stream.wake.wait_for(lambda: stream.ended or stream.due(self._targets))
                if stream.ended:
                    return
                answers = stream.answers(self._targets)
            yield from answers

    def _listen(self, stream: "_Stream", requests: Iterator[xds.DiscoveryRequest]) -> None:
        try:
            for request in requests:
                if request.HasField("error_detail"):
                    self._refused(request)
                with self._lock:
                    stream.subscribe(request)
                    stream.wake.notify()
        except Exception as error:  # grpc raises a bare Exception when the peer has gone: the normal end of a stream
            logger.debug("an ADS stream ended: %s", error)
        self._end(stream)

    def _end(self, stream: "_Stream") -> None:
        with self._lock:
            stream.ended = True
            self._streams.discard(stream)
            stream.wake.notify()

    def _refused(self, request: xds.DiscoveryRequest) -> None:
        reason = f"gRPC refused {request.type_url.removeprefix(TYPE_PREFIX)}: {request.error_detail.message}"
        logger.error("%s; the last good set stays in use", reason)
        with self._lock:
            told = [
                self._on_nack[name]
                for name in {_target_of(full_name) for full_name in request.resource_names} & self._on_nack.keys()
            ]
        for on_nack in told:
            on_nack(reason)


class _Stream:
    """The subscriptions of one stream, and what it was sent. Every method is called with the control plane's lock held."""

    def __init__(self, wake: threading.Condition) -> None:
        self.wake = wake
        self.ended = False
        self.targets: set[str] = set()
        self._sent: dict[str, dict[str, int]] = defaultdict(dict)  # type -> full name -> version, 0 for not yet
        self._nonce = 0

    def subscribe(self, request: xds.DiscoveryRequest) -> None:
        """Apply the names of a request. A name that is new in it is answered again, whatever was sent before: gRPC may unsubscribe and
        subscribe again between two of our answers, and has then dropped what it had."""
        known = self._sent[request.type_url]
        self._sent[request.type_url] = {name: known.get(name, 0) for name in request.resource_names}
        self.targets = {_target_of(name) for names in self._sent.values() for name in names}

    def due(self, targets: dict[str, TargetResources]) -> bool:
        return any(self._changed(kind, targets) for kind in self._sent)

    def answers(self, targets: dict[str, TargetResources]) -> list[xds.DiscoveryResponse]:
        """Routes before endpoints, so that a part is removed from the route before it becomes empty."""
        found = []
        for kind in (LISTENER, CLUSTER, ASSIGNMENT):
            type_url = TYPE_PREFIX + kind
            changed = self._changed(type_url, targets)
            if not changed:
                continue
            if kind is not ASSIGNMENT:
                # A Listener or Cluster that is missing in an answer counts as deleted (xDS protocol, Deleting resources).
                changed = {name: resource for name in self._sent[type_url] if (resource := _find(name, targets)) is not None}
            self._sent[type_url] |= {name: resource.version for name, resource in changed.items()}
            self._nonce += 1
            found.append(
                xds.DiscoveryResponse(
                    version_info=str(max(resource.version for resource in changed.values())),
                    # Created again, because another copy of this library has its own message classes.
                    resources=[xds.Any(type_url=each.body.type_url, value=each.body.value) for each in changed.values()],
                    type_url=type_url,
                    nonce=str(self._nonce),
                )
            )
        return found

    def _changed(self, type_url: str, targets: dict[str, TargetResources]) -> dict[str, Resource]:
        return {
            name: resource
            for name, version in self._sent.get(type_url, {}).items()
            if (resource := _find(name, targets)) is not None and resource.version != version
        }


def _find(full_name: str, targets: dict[str, TargetResources]) -> Resource | None:
    target = targets.get(_target_of(full_name))
    if target is None or target.listener is None:
        return None
    kind = full_name.split("/")[3]
    if kind == CLUSTER:
        return target.cluster(full_name)
    return target.listener if kind == LISTENER else target.assignments.get(full_name)


def _target_of(full_name: str) -> str:
    """`xdstp://authority/kind/target[/part]` -> target; any other name belongs to no target."""
    pieces = full_name.split("/")
    return pieces[4] if len(pieces) > 4 else ""


def _private_directory() -> str:
    """A new directory that only this user can enter, with a path short enough for a socket.

    A container with a read-only root often has no /tmp, but always /dev/shm.
    """
    tried = []
    for parent in dict.fromkeys((os.environ.get("TMPDIR", ""), "/tmp", "/dev/shm", "/var/tmp", os.getcwd())):
        if not parent or len(os.fsencode(parent)) > _LONGEST_PATH - len("/grpc-discovery-00000000/ads"):
            continue
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="grpc-discovery-", dir=parent)  # mode 0700
        tried.append(parent)
    raise ControlPlaneError(
        f"no directory for the control plane's socket: cannot write to {', '.join(tried)}; set TMPDIR to one with a short path"
    )
