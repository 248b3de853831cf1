"""The typed client: what another service imports to call this one."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

import discovery
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc

from ..deadline import bounded
from ..options import channel_options, discovery_config, outliers
from ..settings import Settings
from ..tls import client_files
from .throttle import Throttle


class GreeterClient:
    """Calls with a deadline each, retried and throttled as the settings say. An asynchronous context manager.

    Called while a call is being served, it waits no longer than that call's caller does, and ends with it.
    Errors are gRPC's own (`grpc.aio.AioRpcError`).
    """

    def __init__(self, channel: grpc.aio.Channel, settings: Settings) -> None:
        self.channel = channel
        self.tls = settings.tls
        self._settings = settings.client
        self._stub: Any = rpc.GreeterServiceStub(channel)
        self._throttle = Throttle(settings.client.retry)

    @classmethod
    def connect(cls, settings: Settings, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> "GreeterClient":
        """A client on the target of the settings; nothing is sent yet. Raises discovery.DiscoveryError for a target that
        cannot work, tls.TlsError for TLS files that cannot be used."""
        config = discovery_config(
            settings.discovery, health_check=settings.client.health_check, outliers=outliers(settings.client.outliers)
        )
        target, options = settings.client.target, channel_options(settings)
        files = client_files(settings)
        if files is None:
            channel = discovery.aio.insecure_channel(target, options, interceptors=interceptors, config=config)
        else:
            channel = discovery.aio.secure_channel(target, files, options, interceptors=interceptors, config=config)
        return cls(channel, settings)

    async def greet(self, name: str, *, timeout: float | None = None) -> pb.GreetResponse:
        """One greeting; `timeout` in seconds instead of the setting."""
        try:
            answer: pb.GreetResponse = await self._stub.Greet(
                pb.GreetRequest(name=name), timeout=bounded(timeout or self._settings.timeout), metadata=self._throttle.metadata()
            )
        except grpc.aio.AioRpcError as error:
            # Only what a retry would try again says that servers are in trouble.
            if error.code().name in self._settings.retry.status_codes:
                self._throttle.failed()
            raise
        self._throttle.succeeded()
        return answer

    async def watch(
        self, name: str, *, interval: float = 1.0, count: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.WatchGreetingsResponse]:
        """A greeting every `interval` seconds, `count` of them or until the caller stops or `timeout` seconds are over."""
        request = pb.WatchGreetingsRequest(name=name, count=count)
        request.interval.FromMicroseconds(round(interval * 1e6))
        call = self._stub.WatchGreetings(
            request, timeout=bounded(timeout or self._settings.stream_timeout), metadata=self._throttle.metadata()
        )
        try:
            async for greeting in call:
                yield greeting
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel; calls under way end with CANCELLED."""
        await self.channel.close()

    async def __aenter__(self) -> "GreeterClient":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
