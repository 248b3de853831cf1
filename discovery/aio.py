"""`channel.py` for grpc.aio: the same targets and the same core on threads; only the last call differs."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from .channel import Checked, Options, check_credentials, check_of, open_target, released_on_error
from .config import Config
from .status import Status
from .target import parse
from .tls.aio_rotation import RenewedChannel
from .tls.certificates import CertificateFiles, Credentials
from .xds.lease import CLOSE_WAIT, Lease
from .xds.runtime import process

Interceptors = Sequence[grpc.aio.ClientInterceptor]


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Interceptors | None = None,
    *,
    config: Config | None = None,
) -> grpc.aio.Channel:
    """`grpc.aio.insecure_channel` for every target of discovery and every target of gRPC; see `discovery.insecure_channel`."""
    uri, prepared, lease = open_target(target, options, config, None)
    arguments = _arguments(prepared, compression, interceptors)
    return _opened(lease, lambda: grpc.aio.insecure_channel(uri, **arguments))


def secure_channel(
    target: str,
    credentials: Credentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Interceptors | None = None,
    *,
    config: Config | None = None,
) -> grpc.aio.Channel:
    """`grpc.aio.secure_channel` for every target of discovery and every target of gRPC; see `discovery.secure_channel`."""
    uri, prepared, lease = open_target(target, options, config, check_credentials(target, credentials))
    arguments = _arguments(prepared, compression, interceptors)

    def open_with(current: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(uri, current, **arguments)

    if isinstance(credentials, CertificateFiles):
        return _opened(lease, lambda: RenewedChannel(credentials, open_with))
    return _opened(lease, lambda: open_with(credentials))


def _arguments(options: Options, compression: grpc.Compression | None, interceptors: Interceptors | None) -> dict[str, Any]:
    """By keyword: OpenTelemetry and Sentry add interceptors of their own so."""
    arguments: dict[str, Any] = {"options": options, "compression": compression}
    return arguments if interceptors is None else {**arguments, "interceptors": interceptors}


def _opened(lease: Lease | None, open: Callable[[], grpc.aio.Channel | RenewedChannel]) -> grpc.aio.Channel:
    with released_on_error(lease):
        channel = open()
    return channel if lease is None and isinstance(channel, grpc.aio.Channel) else _Channel(channel, lease)


async def wait_until_synced(target: str, timeout: float, *, config: Config | None = None) -> None:
    """`discovery.wait_until_synced` without blocking the event loop."""
    resolver = process.resolver(parse(target), config)
    loop = asyncio.get_running_loop()
    known = asyncio.Event()

    def listener(status: Status) -> None:
        if status.snapshot is not None or status.state == "closed":
            _tell(loop, known)

    unsubscribe = resolver.subscribe(listener)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(known.wait(), timeout)
    finally:
        unsubscribe()
    if resolver.status.snapshot is None:
        raise resolver.not_synced(timeout)


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
        loop.call_soon_threadsafe(event.set)


class _Channel(grpc.aio.Channel):
    """gRPC's own channel, plus the lease."""

    def __init__(self, channel: grpc.aio.Channel | RenewedChannel, lease: Lease | None) -> None:
        self._channel = channel
        self._lease = lease
        self._check = check_of(lease)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        self._check()
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        self._check()
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        self._check()
        await self._channel.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryUnary(self._channel.unary_unary(*args, **kwargs), self._check)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryStream(self._channel.unary_stream(*args, **kwargs), self._check)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamUnary(self._channel.stream_unary(*args, **kwargs), self._check)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamStream(self._channel.stream_stream(*args, **kwargs), self._check)

    async def close(self, grace: float | None = None) -> None:
        lease = self._lease
        if lease is None:
            await self._channel.close(grace)
            return
        try:
            if not lease.forked:
                await self._channel.close(grace)
        finally:  # also if this is canceled
            done = lease.release()
        await asyncio.wait({asyncio.wrap_future(done)}, timeout=CLOSE_WAIT)

    async def __aenter__(self) -> "_Channel":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class _UnaryUnary(Checked, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # grpcio 1.62 has no parameters
    pass


class _UnaryStream(Checked, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]  # grpcio 1.62 has no parameters
    pass


class _StreamUnary(Checked, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]  # grpcio 1.62 has no parameters
    pass


class _StreamStream(Checked, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]  # grpcio 1.62 has no parameters
    pass
