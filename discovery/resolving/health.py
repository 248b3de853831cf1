"""Health checks: snapshots without health in, the same with health out.

For registries that do not report health (DNS, a fixed list). gRPC's own client-side health checking has no effect with xDS, so each
endpoint is watched with grpc.health.v1 Watch, which sends every change. Reachability is left to gRPC's balancer: an endpoint that
does not answer is unknown, not unhealthy.
"""

import logging
import random
import threading
import time
from collections.abc import Callable

import grpc

from ..config import Backoff
from ..snapshot import Endpoint, Health, Snapshot
from ..tls.certificates import Credentials, current
from ..wire import messages_pb2 as wire
from ..wire import own_channel
from .backoff import BackoffTimer

logger = logging.getLogger(__package__)

LIMIT = 250
"""The maximum number of endpoints that are watched for one target. Each takes a connection, a thread, 0.08 MB, and 0.008 % of a CPU
while idle: gRPC wakes every waiting thread five times a second."""

_METHOD = "/grpc.health.v1.Health/Watch"
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
    # grpc.experimental.ChannelOptions: half the threads, and a quarter of the CPU while waiting.
    ("SingleThreadedUnaryStream", 1),
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
        self._service = service
        self._backoff = backoff
        self._credentials = credentials
        self._authority = authority
        self._clock = clock
        self._jitter = jitter
        self._on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._closed = False

    def start(self, on_change: Callable[[], None]) -> None:
        """Call `on_change`, on a thread of the monitor, whenever the result of `apply` would change."""
        self._on_change = on_change

    def update(self, snapshot: Snapshot) -> None:
        """Watch exactly these endpoints from now on, up to LIMIT of them."""
        wanted = {endpoint.authority for endpoint in sorted(snapshot.endpoints)[:LIMIT]}
        with self._lock:
            if self._closed:
                return
            ended = [self._watches.pop(address) for address in self._watches.keys() - wanted]
            begun = {address: self._watch(address) for address in wanted - self._watches.keys()}
            self._watches |= begun
        for watch in ended:
            watch.close()
        for watch in begun.values():
            watch.thread.start()

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the health known now; an endpoint that has not answered yet is unknown, and gets requests."""
        with self._lock:
            known = {address: watch.health for address, watch in self._watches.items()}

        def judged(endpoint: Endpoint) -> Endpoint:
            health = known.get(endpoint.authority, Health.UNKNOWN)
            return endpoint if health is endpoint.health else endpoint._replace(health=health)

        problems = snapshot.problems
        if len(snapshot) > LIMIT:
            problems += (f"only {LIMIT} of {len(snapshot)} endpoints are health-checked",)
        return Snapshot(frozenset(map(judged, snapshot.endpoints)), problems)

    def close(self) -> None:
        """Close all connections and stop all threads."""
        with self._lock:
            self._closed = True
            ended, self._watches = self._watches, {}
        for watch in ended.values():
            watch.close()

    def _watch(self, address: str) -> "_Watch":
        options = (
            *_OPTIONS,
            ("grpc.default_authority", self._authority),
            # By default, gRPC waits up to two minutes before it reconnects.
            ("grpc.initial_reconnect_backoff_ms", max(100, round(1000 * self._backoff.base))),
            ("grpc.max_reconnect_backoff_ms", max(100, round(1000 * self._backoff.limit))),
        )
        # An IP literal needs no resolver: ipv4: or ipv6:.
        uri = f"{'ipv6' if address.startswith('[') else 'ipv4'}:{address}"
        credentials = self._credentials

        def open_channel(secure: grpc.ChannelCredentials | None) -> grpc.Channel:
            return own_channel(uri, secure, options)

        backoff = BackoffTimer(self._backoff, self._clock, self._jitter)
        return _Watch(
            address,
            open_channel,
            lambda: None if credentials is None else current(credentials),
            self._service,
            backoff,
            lambda: self._on_change(),
        )


class _Watch:
    """One endpoint's stream, restarted with backoff while the endpoint is listed, on a new channel if the credentials are new."""

    def __init__(
        self,
        address: str,
        open_channel: Callable[[grpc.ChannelCredentials | None], grpc.Channel],
        credentials: Callable[[], grpc.ChannelCredentials | None],
        service: str,
        backoff_timer: BackoffTimer,
        on_change: Callable[[], None],
    ) -> None:
        self.health = Health.UNKNOWN
        self.thread = threading.Thread(target=self._run, name=f"discovery health {address}", daemon=True)
        self._address = address
        self._open = open_channel
        self._credentials = credentials
        self._used = credentials()
        self._lock = threading.Lock()  # prevents opening the channel while it is being closed
        self._channel = open_channel(self._used)
        self._request = wire.HealthCheckRequest(service=service)
        self._backoff_timer = backoff_timer
        self._on_change = on_change
        self._closing = threading.Event()

    def close(self) -> None:
        with self._lock:
            self._closing.set()
            self._channel.close()

    def _renew(self) -> None:
        """An open stream continues; only a new one uses new certificates."""
        credentials = self._credentials()
        with self._lock:
            if credentials is not self._used and not self._closing.is_set():
                self._channel.close()
                self._used, self._channel = credentials, self._open(credentials)

    def _run(self) -> None:
        try:
            self._follow()
        finally:
            self._channel.close()

    def _follow(self) -> None:
        """Until closed, or until the server reports that it has no health service: then it is not asked again."""
        heard = False
        while not self._closing.is_set():
            self._backoff_timer.begin()
            self._renew()
            watch = self._channel.unary_stream(
                _METHOD,
                request_serializer=wire.HealthCheckRequest.SerializeToString,
                response_deserializer=wire.HealthCheckResponse.FromString,
            )
            # Servers also close connections because of their age. The last health therefore stays until another attempt has
            # failed, and that attempt fails instead of waiting if the server is away. With TLS no attempt waits: it would use
            # the certificates that it started with, which may have been replaced before the server is back.
            wait_for_ready, heard = not heard and self._used is None, False
            try:
                for response in watch(self._request, wait_for_ready=wait_for_ready):
                    heard = True
                    self._learn(_MEANING.get(response.status, Health.UNKNOWN))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    logger.debug("%s offers no health service; its health stays unknown", self._address)
                    self._learn(Health.UNKNOWN)
                    return
            except ValueError:  # the channel was closed in the meantime
                return
            if not heard:
                self._learn(Health.UNKNOWN)
            self._closing.wait(self._backoff_timer.end())

    def _learn(self, health: Health) -> None:
        if health is not self.health and not self._closing.is_set():
            self.health = health
            self._on_change()
