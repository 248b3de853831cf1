"""Health checks: snapshots without health in, the same with health out.

For registries that do not report health (DNS, a fixed list). gRPC's own client-side health checking has no effect with xDS, so each
endpoint is watched with grpc.health.v1 Watch, which sends every change. Reachability is left to gRPC's balancer: an endpoint that
does not answer is unknown, not unhealthy. One thread runs all watches of a process, on grpc.aio: a synchronous channel would need a
thread of its own, which gRPC wakes five times a second.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from ..config import Backoff
from ..errors import report
from ..snapshot import Endpoint, Health, Snapshot
from ..tls.certificates import Credentials, current
from ..wire import aio_thread
from ..wire import messages_pb2 as wire
from .backoff import BackoffTimer
from .threads import timer

logger = logging.getLogger(__package__)

CLOSE_WAIT = 2.0
"""Maximum seconds that `close` waits until all connections are closed."""

RETRY = 1.0
"""Seconds until a thread that could not be started is tried again."""

_METHOD = "/grpc.health.v1.Health/Watch"
_SERIALIZE: Callable[[Any], bytes] = wire.HealthCheckRequest.SerializeToString
_PARSE: Callable[[bytes], Any] = wire.HealthCheckResponse.FromString
_MEANING = {
    wire.SERVING_STATUS_SERVING: Health.HEALTHY,
    wire.SERVING_STATUS_NOT_SERVING: Health.UNHEALTHY,
    wire.SERVING_STATUS_SERVICE_UNKNOWN: Health.UNHEALTHY,
}
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # For a host that died without closing its connections. Servers forbid more frequent pings by default, and close the connection.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


class HealthMonitor:
    """Watches the health of one target's endpoints. A resolver owns it: `start` once, `update` at every set, `close` at the end.

    service: the service to watch, empty for the server as a whole.   credentials: None for plaintext.
    authority: the name that a server's certificate must have.   clock, jitter (low, high -> seconds): for tests.
    """

    def __init__(
        self,
        service: str,
        backoff: Backoff,
        credentials: Credentials | None,
        authority: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._request = wire.HealthCheckRequest(service=service)
        self._new_backoff: Callable[[], BackoffTimer] = lambda: BackoffTimer(backoff, clock, jitter)
        self._credentials = credentials
        self._options = (
            *_OPTIONS,
            ("grpc.default_authority", authority),
            # By default, gRPC waits up to two minutes before it reconnects.
            ("grpc.initial_reconnect_backoff_ms", max(100, round(1000 * backoff.base))),
            ("grpc.max_reconnect_backoff_ms", max(100, round(1000 * backoff.limit))),
        )
        self._on_change: Callable[[], None] = lambda: None
        self._begun = self._closed = False
        # Changed by the thread of all watches only.
        self._known: dict[str, Health] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._changed = False

    def start(self, on_change: Callable[[], None]) -> None:
        """Call `on_change`, on the thread of all watches, whenever the result of `apply` would change."""
        self._on_change = on_change

    def update(self, snapshot: Snapshot) -> None:
        """Watch exactly these endpoints from now on."""
        wanted = {endpoint.authority for endpoint in snapshot.endpoints}
        if not aio_thread.under_gevent():
            self._begun = True
            self._post(lambda: self._follow(wanted))

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the health known now; an endpoint that has not answered yet is unknown, and gets requests."""

        def judged(endpoint: Endpoint) -> Endpoint:
            health = self._known.get(endpoint.authority, Health.UNKNOWN)
            return endpoint if health is endpoint.health else endpoint._replace(health=health)

        problems = (
            *snapshot.problems,
            *(("health is not checked: grpc.aio does not run under gevent",) if aio_thread.under_gevent() else ()),
        )
        return Snapshot(frozenset(map(judged, snapshot.endpoints)), problems)

    def close(self) -> None:
        """Close all connections, and wait until they are closed, CLOSE_WAIT seconds at most."""
        self._closed = True
        if self._begun:
            closed = threading.Event()
            if self._post(lambda: self._end(closed)) and not aio_thread.current():
                closed.wait(CLOSE_WAIT)

    def _post(self, function: Callable[[], None]) -> bool:
        """Run a function on the thread of all watches; returns False if it cannot be started now, and tries again."""
        try:
            aio_thread.post(function)
        except RuntimeError as error:
            report(logger.warning, "health cannot be checked yet: %s", error)
            timer.call_at(time.monotonic() + RETRY, self._retry)
            return False
        return True

    def _retry(self) -> None:
        self._post(lambda: None)

    # ---- on the thread of all watches ----

    def _follow(self, wanted: set[str]) -> None:
        for address in self._watches.keys() - wanted:
            self._watches.pop(address).cancel()
            self._known.pop(address, None)
        if not self._closed:
            for address in wanted - self._watches.keys():
                self._watches[address] = asyncio.get_running_loop().create_task(self._watch(address))

    def _end(self, closed: threading.Event) -> None:
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        asyncio.gather(*watches, return_exceptions=True).add_done_callback(lambda _: closed.set())

    async def _watch(self, address: str) -> None:
        """One endpoint, until it is cancelled because the endpoint left or the monitor was closed.

        | state \\ event | an answer | the attempt fails | the stream ends or breaks | no health service | the delay is over |
        |---|---|---|---|---|---|
        | first attempt: waits for the server, except with TLS | its health; listening | unknown; delay | | unknown; end | |
        | listening | its health | | health stays; delay | | |
        | delay | | | | | next attempt |
        | next attempt, after an answer: does not wait | its health; listening | unknown; delay | | unknown; end | |

        After a failed attempt, the next one is a first attempt again. A new channel is opened for new credentials only.
        """
        backoff, heard = self._new_backoff(), False
        used: grpc.ChannelCredentials | None = None
        channel: grpc.aio.Channel | None = None
        while True:
            backoff.begin()
            answered = False
            try:
                # Read for each attempt; an open stream continues with what it began with.
                credentials = None if self._credentials is None else current(self._credentials)
                if channel is None or credentials is not used:
                    used, channel = credentials, self._open(address, credentials)
                # Servers also close connections because of their age. The last health therefore stays until another attempt has
                # failed, and that attempt fails instead of waiting if the server is away. With TLS no attempt waits: it would use
                # the certificates that it started with, which may have been replaced before the server is back.
                watch: Any = channel.unary_stream(_METHOD, _SERIALIZE, _PARSE)
                async for response in watch(self._request, wait_for_ready=not heard and used is None):
                    answered = True
                    self._learn(address, _MEANING.get(response.status, Health.UNKNOWN))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    logger.debug("%s offers no health service; its health stays unknown", address)
                    self._learn(address, Health.UNKNOWN)
                    return
            except Exception as error:  # whatever it is, the endpoint is asked again
                report(logger.warning, "the health of %s cannot be asked: %s: %s", address, type(error).__name__, error)
            heard = answered
            if not heard:
                self._learn(address, Health.UNKNOWN)
            await asyncio.sleep(backoff.end())

    def _open(self, address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        uri = f"{'ipv6' if address.startswith('[') else 'ipv4'}:{address}"  # an IP literal needs no resolver
        return aio_thread.own_channel(uri, credentials, self._options)

    def _learn(self, address: str, health: Health) -> None:
        if health is not self._known.get(address, Health.UNKNOWN):
            self._known[address] = health
            if not self._changed:  # several at once are one change
                self._changed = True
                asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._changed = False
        if not self._closed:
            try:
                self._on_change()
            except Exception:
                report(logger.exception, "a change of health could not be passed on")
