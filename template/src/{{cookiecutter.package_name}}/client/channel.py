"""The base of typed clients: a channel on any target, and calls with a deadline, retries, and a retry throttle."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from .. import discovery
from ..calls import served_by
from ..calls.deadline import bounded
from ..defaults import SERVER_NAME

Options = Sequence[tuple[str, Any]]
Metadata = Sequence[tuple[str, str]]
Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Keepalive:
    """time: seconds without activity before a ping.   timeout: seconds to its answer.   max_pings_without_data: 0 means no limit."""

    time: float = 30.0
    timeout: float = 10.0
    permit_without_calls: bool = True
    max_pings_without_data: int = 0


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A retry policy with a throttle (gRFC A6). attempts: 2 to 5, the first included.   backoff in seconds.

    max_tokens, token_ratio: a failed call removes a token, a successful one adds token_ratio; below half, nothing is retried.
    """

    attempts: int = 3
    initial_backoff: float = 0.1
    max_backoff: float = 1.0
    status_codes: tuple[str, ...] = ("UNAVAILABLE",)
    max_tokens: int = 100
    token_ratio: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How calls are made. retry: None disables retries.   outliers: None disables outlier detection.

    load_balancing, health_check: on targets that gRPC resolves itself; the others are round_robin, and `Config.health` decides.
    service_config: a gRPC service config in JSON, in place of the one that the fields produce.
    """

    keepalive: Keepalive = field(default_factory=Keepalive)
    retry: Retry | None = field(default_factory=Retry)
    outliers: discovery.Outliers | None = None
    load_balancing: str = "round_robin"
    health_check: bool = True
    service_config: str | None = None


class ServiceClient:
    """A typed client's base. An asynchronous context manager; errors are gRPC's own (`grpc.aio.AioRpcError`).

    target: see docs/configuration.md.   tls: None is plaintext.   server_name: the DNS name in the server's certificate; empty is
    the name in the target.   timeout, stream_timeout: seconds.   config: how the registry is read; the default ejects none.
    options: further channel arguments.   metadata: sent with every call.

    A call made while another one is served ends no later than that call's deadline, and is canceled with it. Nothing is sent
    before the first call. Raises discovery.DiscoveryError for a target that cannot be used.
    """

    service: ClassVar[ServiceDescriptor]
    """The service that a subclass calls. Methods whose proto has `option idempotency_level` are retried, others never are."""

    def __init__(
        self,
        target: str,
        *,
        tls: discovery.CertificateFiles | None = None,
        server_name: str = SERVER_NAME,
        timeout: float = 2.0,
        stream_timeout: float = 3600.0,
        config: discovery.Config | None = None,
        policy: Policy | None = None,
        options: Options = (),
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metadata: Metadata = (),
    ) -> None:
        policy = Policy() if policy is None else policy
        config = discovery.Config(outliers=policy.outliers) if config is None else config
        arguments = [*channel_options(target, policy, self.service), *options]
        if tls is None:
            self.channel = discovery.aio.insecure_channel(target, arguments, interceptors=interceptors, config=config)
        else:
            if server_name:
                arguments.append(("grpc.default_authority", server_name))
            self.channel = discovery.aio.secure_channel(target, tls, arguments, interceptors=interceptors, config=config)
        self._given = tuple(metadata)
        self._timeout = timeout
        self._stream_timeout = stream_timeout
        self._retry = policy.retry
        self._tokens = float(policy.retry.max_tokens) if policy.retry else 0.0

    async def unary(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request, timeout: float | None = None
    ) -> Answer:
        """Make one call of a stub's `method`; `timeout` in seconds instead of the client's."""
        call = method(request, timeout=bounded(self._timeout if timeout is None else timeout), metadata=self._metadata())
        served_by.last.set("")
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            # As gRFC A6: only codes that are retried count.
            if self._retry is not None and error.code().name in self._retry.status_codes:
                self._tokens = max(0.0, self._tokens - 1)
            raise
        served_by.last.set(served_by.of(await call.trailing_metadata()))
        if self._retry is not None:
            self._tokens = min(self._tokens + self._retry.token_ratio, self._retry.max_tokens)
        return answer

    async def stream(
        self, method: "grpc.aio.UnaryStreamMultiCallable[Request, Answer]", request: Request, timeout: float | None = None
    ) -> AsyncIterator[Answer]:
        """The answers of a stub's `method`, until the stream ends, the caller stops or `timeout` seconds are over."""
        call = method(request, timeout=bounded(self._stream_timeout if timeout is None else timeout), metadata=self._metadata())
        try:
            async for answer in call:
                yield answer
        finally:
            call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """On discovery's targets gRPC retries by xDS routes, which have no throttle; NO_RETRY keeps them from retrying."""
        throttled = self._retry is not None and self._tokens <= self._retry.max_tokens / 2
        return (*self._given, discovery.NO_RETRY) if throttled else self._given

    async def close(self) -> None:
        """Close the channel; calls in flight end with CANCELLED."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def channel_options(target: str, policy: Policy, service: ServiceDescriptor) -> list[tuple[str, Any]]:
    """Channel arguments, for every kind of target. Raises discovery.TargetError for a target that cannot be read."""
    keepalive = policy.keepalive
    # Behind one address, a new connection may reach another server, so reconnect soon.
    first_backoff = 100 if discovery.parse_target(target).scheme == "passthrough" else 500
    return [
        ("grpc.service_config", service_config(target, policy, service)),
        ("grpc.keepalive_time_ms", round(keepalive.time * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive.timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(keepalive.timeout * 1000)),  # or a hung server is detected after 60 s
        ("grpc.keepalive_permit_without_calls", int(keepalive.permit_without_calls)),
        ("grpc.http2.max_pings_without_data", keepalive.max_pings_without_data),
        ("grpc.dns_min_time_between_resolutions_ms", 5000),  # 30 s by default
        ("grpc.initial_reconnect_backoff_ms", first_backoff),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        ("grpc.enable_http_proxy", 0),  # a proxy variable in the pod would redirect calls inside the cluster
    ]


def service_config(target: str, policy: Policy, service: ServiceDescriptor) -> str:
    """The service config in JSON. No timeout in it: gRPC fires it early; deadlines are set call by call."""
    if policy.service_config is not None:
        return policy.service_config
    parsed = discovery.parse_target(target)
    # With one connection there is no other server to use: a health check would only make calls fail during a drain.
    single = parsed.scheme == "passthrough"
    balancing: dict[str, Any] = {"pick_first" if single else policy.load_balancing: {}}
    if "round_robin" in balancing and policy.outliers is not None and not parsed.ours:  # ours get it by xDS
        balancing = {"outlier_detection_experimental": _outlier_detection(policy.outliers, balancing)}
    config: dict[str, Any] = {"loadBalancingConfig": [balancing]}
    if policy.health_check and not single:
        config["healthCheckConfig"] = {"serviceName": ""}
    # Three attempts pass before an address in front of all has left out a server that was killed.
    wait: dict[str, Any] = {"waitForReady": True} if single and policy.retry is not None else {}
    config["methodConfig"] = [{"name": [{}], **wait}] if wait else []
    idempotent = [method.name for method in service.methods if method.GetOptions().idempotency_level]
    if policy.retry is not None and idempotent:
        retry = {
            "maxAttempts": policy.retry.attempts,
            "initialBackoff": f"{policy.retry.initial_backoff:.3f}s",
            "maxBackoff": f"{policy.retry.max_backoff:.3f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": list(policy.retry.status_codes),
        }
        names = [{"service": service.full_name, "method": name} for name in idempotent]
        config["methodConfig"].append({"name": names, "retryPolicy": retry, **wait})
        # With its decimal point, or gRPC reads thousandths.
        config["retryThrottling"] = {"maxTokens": policy.retry.max_tokens, "tokenRatio": float(policy.retry.token_ratio)}
    return json.dumps(config)


def _outlier_detection(outliers: discovery.Outliers, child: dict[str, Any]) -> dict[str, Any]:
    """gRPC's own balancer around `child` (gRFC A50); its name is experimental, what it does is not."""
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
