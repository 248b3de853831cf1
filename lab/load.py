"""Calls a target at a constant rate and records each call: health's Check, which every server has, unless another method is named."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import grpc.aio

import discovery
from discovery.target import parse

CHECK = "/grpc.health.v1.Health/Check"
SERVED_BY = "x-served-by"
"""The metadata by which a server names itself, initial or, in a unary call, trailing."""
BACKOFFS = (0.1, 0.2)
"""Seconds, the most before a second and a third attempt."""
MAX_IN_FLIGHT = 1000
"""Concurrent calls; calls above this number are not made."""


@dataclass(frozen=True, slots=True)
class Result:
    """One call. started: `time.monotonic()` seconds.  duration: seconds.  server: the one that answered, empty if none did.  code: gRPC's name."""

    started: float
    duration: float
    server: str
    code: str


@dataclass(frozen=True)
class Options:
    """How calls are made; the defaults are those of a generated project's client, but that it has a budget for retries.

    timeout: seconds.   retries: whether a call that ends with UNAVAILABLE is retried, three attempts in all.   outliers: when a
    server that fails calls is ejected for a while, None for never.   config: the registry's part.
    """

    timeout: float = 2.0
    retries: bool = True
    outliers: discovery.Outliers | None = None
    config: discovery.Config = field(default_factory=discovery.Config)


class Client:
    """A channel of `discovery` on a target, and one method on it, called with an empty message. An asynchronous context manager.

    Raises discovery.DiscoveryError for a target that cannot be used.
    """

    def __init__(self, target: str, options: Options = Options(), method: str = CHECK) -> None:
        self._options = options
        config = replace(options.config, outliers=options.outliers)
        self.channel = discovery.aio.insecure_channel(target, channel_options(target, options), config=config)
        self._method: Any = self.channel.unary_unary(method)

    async def call(self, timeout: float | None = None) -> str:
        """The name of the server that has answered, empty where it does not say. Raises grpc.aio.AioRpcError."""
        end = time.monotonic() + (timeout or self._options.timeout)
        for backoff in BACKOFFS if self._options.retries else ():
            try:
                return await self._attempt(end)
            except grpc.aio.AioRpcError as error:
                delay = random.uniform(0.0, backoff)
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + delay >= end:
                    raise
                await asyncio.sleep(delay)
        return await self._attempt(end)

    async def _attempt(self, end: float) -> str:
        call = self._method(b"", timeout=end - time.monotonic())
        await call
        return served_by(await call.initial_metadata()) or served_by(await call.trailing_metadata())

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.channel.close()


def served_by(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The server's name in a call's metadata; empty where it is not there."""
    return next((str(value) for name, value in metadata if name == SERVED_BY), "")


class Load:
    """Makes calls at a constant rate, whether or not earlier ones have ended, as independent users would; `on_result` gets each."""

    def __init__(self, client: Client, rate: float, on_result: Callable[[Result], None]) -> None:
        self._client = client
        self._rate = rate
        self._on_result = on_result
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Call until `stopping` is set; then wait for the calls in flight, each of which has its deadline."""
        begun, made = time.monotonic(), 0
        while not stopping.is_set():
            made += 1
            if len(self._calls) < MAX_IN_FLIGHT:
                call = asyncio.create_task(self._call())
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            await _sleep(stopping, begun + made / self._rate - time.monotonic())
        if self._calls:
            await asyncio.wait(self._calls)

    async def _call(self) -> None:
        started = time.monotonic()
        try:
            server, code = await self._client.call(), "OK"
        except grpc.aio.AioRpcError as error:
            server, code = "", error.code().name
        self._on_result(Result(started, time.monotonic() - started, server, code))


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    """Wait `seconds`, or until `stopping` is set; if the load is late, only let other tasks run."""
    if seconds <= 0:
        return await asyncio.sleep(0)
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass


def channel_options(target: str, options: Options) -> list[tuple[str, Any]]:
    """gRPC's arguments, as a generated client sets them."""
    # Behind one address every new connection may reach another server, so reconnect soon.
    first_backoff = 100 if parse(target).scheme == "passthrough" else 500
    return [
        ("grpc.service_config", service_config(target, options)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # or a hung server is detected after 60 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.dns_min_time_between_resolutions_ms", 5000),  # 30 s by default
        ("grpc.initial_reconnect_backoff_ms", first_backoff),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]


def service_config(target: str, options: Options) -> str:
    """The service config in JSON; discovery's own targets get outlier detection by xDS instead."""
    where = parse(target)
    single = where.scheme == "passthrough"
    balancing: dict[str, Any] = {"pick_first" if single else "round_robin": {}}
    if options.outliers and not single and not where.ours:
        balancing = {"outlier_detection_experimental": _outlier_detection(options.outliers, balancing)}
    config: dict[str, Any] = {"loadBalancingConfig": [balancing]}
    if single:
        # All attempts pass before an address in front of all has left out a server that was killed.
        config["methodConfig"] = [{"name": [{}], "waitForReady": True}]
    else:
        config["healthCheckConfig"] = {"serviceName": ""}
    return json.dumps(config)


def _outlier_detection(outliers: discovery.Outliers, child: dict[str, Any]) -> dict[str, Any]:
    """gRPC's own balancer around `child` (gRFC A50)."""
    return {
        "interval": f"{outliers.interval:.3f}s",
        "baseEjectionTime": f"{outliers.ejection:.3f}s",
        "maxEjectionTime": f"{outliers.max_ejection:.3f}s",
        "maxEjectionPercent": outliers.max_percent,
        "failurePercentageEjection": {
            "threshold": outliers.threshold,
            "enforcementPercentage": 100,
            "minimumHosts": 2,
            "requestVolume": outliers.min_requests,
        },
        "childPolicy": [child],
    }
