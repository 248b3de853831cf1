"""Faults between a client and its servers: of single calls, by gRPC's own fault filter, and of connections, by a proxy on loopback."""

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from ..errors import TargetError
from ..target import parse
from ..wire import messages_pb2 as xds
from ..xds.lease import Lease
from ..xds.resources import TYPE_PREFIX
from ..xds.runtime import process

_FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
_ACKNOWLEDGED = 10.0

_numbers = itertools.count(1)
_lock = threading.Lock()
_filters: dict[str, tuple[xds.HttpFilter, ...]] = {}  # name in the control plane -> filters of the blocks that run


@contextlib.contextmanager
def faults(
    channel: grpc.Channel | grpc.aio.Channel | str,
    *,
    abort: grpc.StatusCode | None = None,
    delay: float = 0.0,
    percent: float = 100.0,
    by_metadata: bool = False,
    max_active: int | None = None,
) -> Iterator[None]:
    """While the block runs, gRPC aborts or delays calls of a channel, or of all open channels on a target, without a server.

        with testing.faults(channel, abort=grpc.StatusCode.UNAVAILABLE, percent=30):
            assert program_survives()

    abort: the status that calls end with.   delay: seconds for which calls wait before they begin.   percent: how many of the calls,
    drawn for the delay and for the abort separately.   max_active: how many calls have a fault at a time.
    by_metadata: only calls have a fault whose metadata asks for it: `x-envoy-fault-abort-grpc-request: 14` for a status by its
    number, `x-envoy-fault-delay-request: 100` for milliseconds; `abort` and `delay` are left out.

    It is gRPC's fault injection (gRFC A33), which acts above its retries: a call that is aborted is not tried again by a retry policy,
    and no server sees it. Calls that have begun go on. Blocks may be nested; each draws by itself. Calls of other channels that share
    the target, the `Config`, and the service config have the faults, too. Raises TargetError if the channel or target is not of
    this library, or not open; ValueError for a combination that injects nothing; TimeoutError if gRPC does not acknowledge it.
    """
    names = _names(channel)
    body = _fault(abort, delay, percent, by_metadata, max_active).SerializeToString()
    # A name of its own, so that gRPC tells the filters of nested blocks apart.
    own = xds.HttpFilter(name=f"fault-{next(_numbers)}", typed_config=xds.Any(type_url=TYPE_PREFIX + _FAULT, value=body))
    try:
        for name in names:
            _change(name, own, wanted=True)
        yield
    finally:
        for name in names:
            _change(name, own, wanted=False)


def _change(name: str, own: xds.HttpFilter, *, wanted: bool) -> None:
    with _lock:
        filters = tuple(each for each in _filters.pop(name, ()) if each is not own) + (own,) * wanted
        if filters:
            _filters[name] = filters
        process.plane().filter(name, filters).result(_ACKNOWLEDGED)


def _names(channel: grpc.Channel | grpc.aio.Channel | str) -> list[str]:
    if isinstance(channel, str):
        names = process.names(parse(channel))
        if not names:
            raise TargetError(
                f"target '{channel}' has no open channel in this process; open one first, and write the target the same way"
            )
        return names
    inner: Any = channel
    while inner is not None:  # interceptors wrap a channel
        if isinstance(lease := getattr(inner, "_lease", None), Lease):
            return [lease.uri.rpartition("/")[2]]
        inner = getattr(inner, "_channel", None)
    raise TargetError(
        f"{channel!r} is no channel of this library on a target that it resolves; gRPC has the fault filter for xDS only"
    )


def _fault(
    abort: grpc.StatusCode | None, delay: float, percent: float, by_metadata: bool, max_active: int | None
) -> xds.HttpFault:
    if not 0 < percent <= 100 or delay < 0 or by_metadata == bool(abort or delay) or abort is grpc.StatusCode.OK:
        raise ValueError(
            "pass abort=, a status but OK, or delay=, in seconds, or both, with a percent from 0 to 100; or by_metadata=True"
        )
    share = xds.FractionalPercent(numerator=round(percent * 10_000), denominator=xds.DENOMINATOR_MILLION)
    fault = xds.HttpFault(max_active_faults=None if max_active is None else xds.UInt32Value(value=max_active))
    if by_metadata:
        fault.abort.CopyFrom(xds.FaultAbort(header_abort=xds.HeaderAbort(), percentage=share))
        fault.delay.CopyFrom(xds.FaultDelay(header_delay=xds.HeaderDelay(), percentage=share))
    if abort is not None:
        fault.abort.CopyFrom(xds.FaultAbort(grpc_status=abort.value[0], percentage=share))
    if delay:
        seconds, microseconds = divmod(round(delay * 1e6), 1_000_000)
        wait = xds.Duration(seconds=seconds, nanos=microseconds * 1000)
        fault.delay.CopyFrom(xds.FaultDelay(fixed_delay=wait, percentage=share))
    return fault


class Proxy:
    """Forwards to `upstream` (host, port) from `address`, on loopback. `accepted` counts connections."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._refusing = False
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
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
                    pair = (near, socket.create_connection(self._upstream))
                except OSError:  # the registry itself is down
                    near.close()
                    continue
                for side in pair:  # what is small must not wait for an acknowledgement
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append(pair)
                self._threads.append(threading.Thread(target=self._forward, args=pair, name="proxy", daemon=True))
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

    @property
    def connections(self) -> int:
        """How many are open at this moment."""
        with self._lock:
            return sum(near.fileno() != -1 for near, _ in self._pairs)

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

    def redirect(self, upstream: tuple[str, int]) -> None:
        """From now on forward elsewhere."""
        with self._lock:
            self._upstream = upstream
        self.cut()

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
