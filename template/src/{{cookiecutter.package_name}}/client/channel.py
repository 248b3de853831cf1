"""The base of typed clients: a channel on any target, and calls with a deadline, retries, and telemetry."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, TypeVar

import grpc.aio

from .. import discovery
from ..defaults import SERVER_NAME
from ..discovery.calls import served_by, telemetry
from ..discovery.calls.retry import Call, Retry
from ..discovery.calls.status_details import InvalidRequestError

__all__ = ["InvalidRequestError", "Retry", "ServiceClient", "channel_options"]

Options = Sequence[tuple[str, Any]]
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class ServiceClient:
    """A typed client's base. An asynchronous context manager; errors are `grpc.aio.AioRpcError` and its subclass InvalidRequestError.

    target: see docs/configuration.md.   tls: None is plaintext.   server_name: the DNS name in the server's certificate; empty is
    the name in the target.   timeout, stream_timeout: seconds, retries included.   retry: only for methods whose .proto file has
    `option idempotency_level`.   outlier_detection: servers whose calls fail get none for a while; every status but OK counts, so
    not for a service that often answers NOT_FOUND or the like.   config: how the registry is read.   options: further channel
    arguments, which take precedence.   metadata: sent with every call.

    A call made while another one is served ends no later than that call's deadline, and is canceled with it. Nothing is sent
    before the first call. Raises discovery.DiscoveryError for a target that cannot be used.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: discovery.CertificateFiles | None = None,
        server_name: str = SERVER_NAME,
        timeout: float = 2.0,
        stream_timeout: float = 3600.0,
        retry: Retry | None = None,
        outlier_detection: bool = False,
        config: discovery.Config | None = None,
        options: Options = (),
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        arguments = channel_options(target, outlier_detection) | dict(options)
        # Or a hung server is detected after 60 s.
        arguments.setdefault("grpc.http2.ping_timeout_ms", arguments["grpc.keepalive_timeout_ms"])
        if tls is None:
            self.channel = discovery.aio.insecure_channel(target, [*arguments.items()], interceptors=interceptors, config=config)
        else:
            if server_name:
                arguments.setdefault("grpc.default_authority", server_name)
            self.channel = discovery.aio.secure_channel(
                target, tls, [*arguments.items()], interceptors=interceptors, config=config
            )
        measured = telemetry.ClientTelemetry(target) if telemetry.enabled() else None
        self._call = target, retry or Retry(), measured, tuple(metadata)
        self._timeout, self._stream_timeout = timeout, stream_timeout

    async def unary(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request, timeout: float | None = None
    ) -> Answer:
        """Make one call of a stub's `method`; `timeout` in seconds instead of the client's."""
        with Call(*self._call, method, self._timeout if timeout is None else timeout) as call:
            while True:
                attempt = method(request, timeout=call.timeout, metadata=call.metadata)
                try:
                    answer = await attempt
                except grpc.aio.AioRpcError as error:
                    await call.retry(error)
                else:
                    if (names := served_by.names.get()) is not None:
                        names.append(served_by.of(await attempt.trailing_metadata()))
                    return answer

    async def stream(
        self, method: "grpc.aio.UnaryStreamMultiCallable[Request, Answer]", request: Request, timeout: float | None = None
    ) -> AsyncIterator[Answer]:
        """The answers of a stub's `method`, until the stream ends, the caller stops or `timeout` seconds are over.

        After the first answer nothing is retried: call again, and go on where the stream has ended. A server's drain ends it, and
        so does SERVER__MAX_CONNECTION_AGE with SERVER__MAX_CONNECTION_AGE_GRACE, both with UNAVAILABLE and whatever the timeout.
        """
        with Call(*self._call, method, self._stream_timeout if timeout is None else timeout) as call:
            while True:
                attempt = method(request, timeout=call.timeout, metadata=call.metadata)
                try:
                    async for answer in attempt:
                        call.final = True
                        yield answer
                    return
                except grpc.aio.AioRpcError as error:
                    await call.retry(error)
                finally:
                    attempt.cancel()

    async def close(self) -> None:
        """Close the channel; calls in flight end with CANCELLED."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def channel_options(target: str, outlier_detection: bool) -> dict[str, Any]:
    """Channel arguments, for every kind of target. Raises discovery.TargetError for a target that cannot be read."""
    parsed = discovery.parse_target(target)
    single = parsed.scheme == "passthrough"
    config: dict[str, Any] = {"loadBalancingConfig": [{"pick_first" if single else "round_robin": {}}]}
    if single:
        # Its attempts end before the address in front of all servers has left out one that was killed.
        config["methodConfig"] = [{"name": [{}], "waitForReady": True}]
    elif not parsed.ours:
        config["healthCheckConfig"] = {"serviceName": ""}
    if outlier_detection and not single:
        # With gRPC's defaults (gRFC A50), but for as few servers as two.
        ejection = {"failurePercentageEjection": {"minimumHosts": 2}, "childPolicy": config["loadBalancingConfig"]}
        config["loadBalancingConfig"] = [{"outlier_detection_experimental": ejection}]
    return {
        "grpc.service_config": json.dumps(config),
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.dns_min_time_between_resolutions_ms": 5000,  # 30 s by default
        "grpc.initial_reconnect_backoff_ms": 100 if single else 500,  # a new connection may reach another server
        "grpc.min_reconnect_backoff_ms": 5000,
        "grpc.max_reconnect_backoff_ms": 10_000,
        "grpc.enable_http_proxy": 0,  # a proxy variable in the pod would redirect calls inside the cluster
    }
