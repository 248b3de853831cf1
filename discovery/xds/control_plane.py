"""Snapshots in, xDS out: an aggregated discovery service (ADS) inside this process, for gRPC's own xDS client.

It implements the State-of-the-World variant of the xDS transport protocol, on a unix socket that only this user can reach. It
handles names and resources, not registries.
"""

import contextlib
import functools
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import grpc

from ..errors import ControlPlaneError, report
from ..resolving.threads import Guard, Serial, timer
from ..snapshot import Snapshot
from ..wire import messages_pb2 as xds
from .ads_stream import Stream, target_of
from .resources import LISTENER, TYPE_PREFIX, TargetResources
from .socket_directory import SocketDirectory

logger = logging.getLogger(__package__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_LISTENER = TYPE_PREFIX + LISTENER
_RETRY = 0.1
"""Seconds until a thread that could not be started is tried again."""

_STOP_WAIT = 1.0
"""Seconds at most until a server has stopped; it takes a few milliseconds."""

OnNack = Callable[[str], None]


class _DaemonThreads(Executor):
    """A daemon thread per stream: an executor that is joined at exit would block the interpreter while a channel is open.

    `submit` never raises, because that would end the thread on which gRPC's server accepts calls. If the system has no thread left,
    the stream waits until there is one.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # passed to the future's owner, as every executor does
                future.set_exception(error)

        def start() -> None:
            try:
                threading.Thread(target=run, name="discovery control plane", daemon=True).start()
            except RuntimeError as error:
                report(logger.error, "no thread for the control plane: %s; it is tried again", error)
                timer.call_at(time.monotonic() + _RETRY, start)

        start()
        return future


def _daemon_threads() -> Any:
    """gRPC takes any Executor; its type stubs say ThreadPoolExecutor."""
    return _DaemonThreads()


INTERFACE = 2
"""The version of the interface between copies of this library in one process: `add`, `publish`, `filter`, `remove`, `ensure`, `idle`, and
`before_fork` here, and what they use of TargetResources, View, and Resource. Increased by incompatible changes."""


@dataclass
class _Filtering:
    """HTTP filters that a name gets. gRPC acknowledges a Listener before its channels use it, but reads the next one only after that, so
    it is sent `times`."""

    filters: tuple[Any, ...]
    done: "Future[None]" = field(default_factory=Future)
    times: int = 2
    version: int = 0
    """The Listener's that is sent; 0 until it is made."""


class _Served:
    """One name: its resources, and the set that is not laid out yet."""

    def __init__(self, resources: TargetResources, on_nack: OnNack) -> None:
        self.resources = resources
        self.on_nack = on_nack
        self.published: Snapshot | None = None
        self.filtering: _Filtering | None = None
        self.lay_out = Serial(self._lay_out)
        self._laid_out: Snapshot | None = None

    def _lay_out(self) -> None:
        """On the thread of a stream: with thousands of endpoints it takes a while."""
        filtering = self.filtering
        if filtering is not None and not filtering.version:
            self.resources.filter(filtering.filters)
            filtering.version = self.resources.view.listener.version
        snapshot = self.published
        if snapshot is None or snapshot is self._laid_out:
            return
        self._laid_out = snapshot
        try:
            self.resources.update(snapshot)
        except Exception as error:
            report(logger.exception, "a set of %d endpoints could not be made into xDS resources", len(snapshot))
            self.on_nack(f"the set could not be made into xDS resources: {type(error).__name__}: {error}")

    def acknowledged(self, version: int) -> bool:
        """gRPC has this version of the Listener; returns whether it has to be sent again."""
        filtering = self.filtering
        if filtering is None or not filtering.version or version < filtering.version or filtering.done.done():
            return False
        filtering.times -= 1
        if filtering.times:
            filtering.version = 0
            return True
        self.filtering = None
        filtering.done.set_result(None)
        return False


class ControlPlane:
    """One per process, shared by every copy of this library in it. The constructor starts it, `close` stops it; published sets remain
    until `remove`.

    Raises ControlPlaneError if there is no directory for the socket, or no thread.
    """

    def __init__(self) -> None:
        self._directory = SocketDirectory()
        self.server_uri = f"unix:{self._directory.socket}"
        self._starting = Guard()  # the exception: held while a server is started, which openers of channels have to wait for
        self._guard = Guard()  # guards the tables
        self._served: dict[str, _Served] = {}
        self._streams: set[Stream] = set()
        self._servers: list[grpc.Server] = []  # the last one listens; the others end with their streams
        self._numbers = itertools.count()
        self._exiting = False
        try:
            self._start()
        except ControlPlaneError:
            self._directory.remove()
            raise

    def add(self, name: str, resources: TargetResources, on_nack: OnNack) -> None:
        """Start serving `name`; no endpoints are sent before its first `publish`, so that calls wait instead of failing."""
        with self._guard:
            self._served[name] = _Served(resources, on_nack)
        self._wake(name)  # a channel may have been opened on it already

    def publish(self, name: str, snapshot: Snapshot) -> None:
        """Send gRPC this set. Returns immediately; gRPC applies it some milliseconds later."""
        served = self._served.get(name)
        if served is not None and served.published is not snapshot:
            served.published = snapshot
            self._wake(name)

    def filter(self, name: str, filters: tuple[Any, ...]) -> "Future[None]":
        """Put these HTTP filters before the router of `name`, for one caller at a time. The future is done once gRPC's channels use them."""
        filtering = _Filtering(filters)
        served = self._served.get(name)
        with self._guard:
            used = served is not None and any(name in stream.targets for stream in self._streams)
        if served is not None:
            served.filtering = filtering
            self._wake(name)
        if not used:
            filtering.done.set_result(None)  # whoever connects gets them first
        return filtering.done

    def remove(self, name: str) -> None:
        """Stop serving `name`, after its last channel was closed."""
        with self._guard:
            self._served.pop(name, None)

    def ensure(self) -> None:
        """Make sure that new channels find the socket: it is removed when the last channel closes, or by whoever cleans /tmp.

        Raises ControlPlaneError if it cannot be made again.
        """
        with self._starting:
            if not self._directory.exists:
                self._directory.create()
                self._start()

    def idle(self) -> None:
        """The last channel of a copy was closed: leave nothing on disk, because a process may end in a way that runs no exit handler.
        The server goes on: gRPC may use its connection for the next channel."""
        with self._starting:
            if not self._served:
                self._directory.remove()

    def before_fork(self) -> None:
        """While no channel is open, leave no thread in gRPC, which does not prepare for a fork then, so that the child can use it."""
        with self._starting:
            if self._served or self._directory.exists:
                return
            unused, self._servers = self._servers, []
        for stopped in [server.stop(_STOP_WAIT) for server in unused]:  # gRPC is about to close its connections
            stopped.wait(_STOP_WAIT)

    def close(self) -> None:
        """Stop the servers and remove the socket. Open channels keep their last set."""
        self.remove_socket()
        for server in self._servers:
            server.stop(None)

    def remove_socket(self) -> None:
        """Leave nothing on disk at the end; in a forked child nothing happens, the socket is the parent's."""
        self._exiting = True
        self._directory.remove()

    def _start(self) -> None:
        server = grpc.server(_daemon_threads(), options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
        handler = grpc.stream_stream_rpc_method_handler(
            functools.partial(self._serve, server),
            request_deserializer=xds.DiscoveryRequest.FromString,
            response_serializer=xds.DiscoveryResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": handler}),))
        # Bound under another name: a server that stops removes the name that it was bound to, and may not remove its successor's.
        path = f"{os.path.dirname(self._directory.socket)}/{next(self._numbers)}"
        try:
            server.add_insecure_port(f"unix:{path}")
            server.start()
            os.replace(path, self._directory.socket)
        except (RuntimeError, OSError) as error:
            # Not stopped: without the thread that could not be started, gRPC's `stop` waits forever.
            raise ControlPlaneError(f"the control plane cannot be started on '{self.server_uri}': {error}") from None
        with self._guard:
            used = {stream.server for stream in self._streams}
        unused = [each for each in self._servers if each not in used]
        self._servers = [each for each in self._servers if each in used] + [server]
        for each in unused:
            with contextlib.suppress(RuntimeError):  # no thread is left to end it; it stays
                each.stop(_STOP_WAIT)

    def _wake(self, name: str, but: Stream | None = None) -> None:
        with self._guard:
            streams = [stream for stream in self._streams if stream is not but and name in stream.targets]
        for stream in streams:
            stream.wake()

    def _serve(
        self, server: grpc.Server, requests: Iterator[xds.DiscoveryRequest], context: grpc.ServicerContext
    ) -> Iterator[xds.DiscoveryResponse]:
        """One ADS stream: gRPC opens one per target, shared by the channels to it. Requests are read on a second thread."""
        stream = Stream(server)
        with self._guard:
            self._streams.add(stream)
        context.add_callback(lambda: self._end(stream))
        listening = threading.Thread(target=self._listen, args=(stream, requests), name="discovery ADS requests", daemon=True)
        while context.is_active():
            try:
                listening.start()
                break
            except RuntimeError as error:
                report(logger.error, "no thread for the control plane: %s; it is tried again", error)
                time.sleep(_RETRY)
        while stream.wait():
            with self._guard:
                due = {name: self._served[name] for name in stream.targets if name in self._served}
            for name, served in due.items():
                before = served.resources.view
                served.lay_out()
                if served.resources.view is not before:
                    self._wake(name, but=stream)
            with self._guard:
                answers = stream.answers({name: served.resources for name, served in due.items()})
            yield from answers

    def _listen(self, stream: "Stream", requests: Iterator[xds.DiscoveryRequest]) -> None:
        try:
            for request in requests:
                if request.HasField("error_detail"):
                    self._refused(request)
                elif request.type_url == _LISTENER and request.version_info:
                    self._acknowledged(request)
                with self._guard:
                    asks = stream.subscribe(request)
                if asks:  # an ACK wakes nobody
                    stream.wake()
        except Exception as error:  # grpc raises a bare Exception when the peer has gone: the normal end of a stream
            report(logger.debug, "an ADS stream ended: %s", error)
        self._end(stream)

    def _end(self, stream: "Stream") -> None:
        with self._guard:
            self._streams.discard(stream)
        stream.end()
        timer.post(self._ensure_again)

    def _ensure_again(self) -> None:
        """gRPC is about to connect again, after its stream has ended."""
        if self._served and not self._exiting:
            try:
                self.ensure()
            except ControlPlaneError as error:
                report(logger.error, "%s; it is tried again", error)
                timer.call_at(time.monotonic() + 1, self._ensure_again)

    def _acknowledged(self, request: xds.DiscoveryRequest) -> None:
        for name in map(target_of, request.resource_names):
            served = self._served.get(name)
            if served is not None and served.acknowledged(int(request.version_info)):
                self._wake(name)

    def _refused(self, request: xds.DiscoveryRequest) -> None:
        reason = f"gRPC refused {request.type_url.removeprefix(TYPE_PREFIX)}: {request.error_detail.message}"
        report(logger.error, "%s; the last good set stays in use", reason)
        for name in {target_of(full_name) for full_name in request.resource_names}:
            served = self._served.get(name)
            if served is not None:
                served.on_nack(reason)
