"""A target and options in, a gRPC channel out: the functions that replace grpc's own.

`aio.py` is the same for grpc.aio. Both open gRPC's own channel and add only one check to the path of a call.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import grpc

from . import grpc_schemes
from .config import Config
from .errors import TargetError
from .target import Target, parse
from .tls.certificates import CertificateFiles, Credentials
from .tls.rotation import RenewedChannel
from .xds.lease import Key, Lease
from .xds.runtime import process
from .xds.service_config import read_service_config

Options = Sequence[tuple[str, Any]]

_TLS_OPTION = "grpc.ssl_target_name_override"


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    config: Config | None = None,
) -> grpc.Channel:
    """`grpc.insecure_channel` for every target of discovery and every target of gRPC.

    A service config in `options` keeps its retry policies. The caller's channel options take precedence. Raises TargetError
    for an invalid target or option, ControlPlaneError if the control plane cannot be started.
    """
    uri, prepared, lease = open_target(target, options, config, None)
    # By keyword: instrumentation of gRPC may take its arguments so.
    return _opened(lease, lambda: grpc.insecure_channel(uri, options=prepared, compression=compression))


def secure_channel(
    target: str,
    credentials: Credentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    config: Config | None = None,
) -> grpc.Channel:
    """`grpc.secure_channel` for every target of discovery and every target of gRPC.

    With CertificateFiles as `credentials`, the channel uses renewed files without losing a call. The servers' certificates must
    have the target's name (`Target.authority`), not a pod's address; the option grpc.default_authority changes the name. Raises
    as `insecure_channel` does.
    """
    uri, prepared, lease = open_target(target, options, config, check_credentials(target, credentials))

    def open_with(current: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.secure_channel(uri, current, options=prepared, compression=compression)

    if isinstance(credentials, CertificateFiles):
        return _opened(lease, lambda: RenewedChannel(credentials, open_with))
    return _opened(lease, lambda: open_with(credentials))


def check_credentials(target: str, credentials: Credentials) -> Credentials:
    """Reject a secure channel without usable credentials. Raises TargetError."""
    if not isinstance(credentials, Credentials):
        raise TargetError(
            f"target '{target}': secure_channel needs grpc.ChannelCredentials or CertificateFiles, not {credentials!r}; for plaintext use insecure_channel"
        )
    return credentials


def open_target(
    text: str, options: Options | None, config: Config | None, credentials: Credentials | None
) -> tuple[str, list[tuple[str, Any]], Lease | None]:
    """What to open a channel with: gRPC's URI, the options, and the lease to release, None for gRPC's own schemes."""
    target = parse(text)
    given = list(options or ())
    names = {name for name, _ in given}
    if credentials is None and _TLS_OPTION in names:
        # gRPC would send plaintext without a warning.
        raise TargetError(
            f"target '{text}': the option {_TLS_OPTION} is for TLS, but insecure_channel sends plaintext; use secure_channel, or remove the option"
        )
    if not target.ours:
        if target.scheme == "xds":
            process.plane()  # gRPC reads the bootstrap once, so ours must be in it before the first xds channel
        uri, prepared = grpc_schemes.prepare(target, given)
        return uri, list(prepared), None
    service_config = read_service_config(given)
    chosen = config or Config()
    if service_config.health is not None:
        chosen = replace(chosen, health=service_config.health)
    if service_config.outliers is not None:
        chosen = replace(chosen, outliers=service_config.outliers)
    authority = dict(given).get(_TLS_OPTION) or dict(given).get("grpc.default_authority") or target.authority
    lease = process.acquire(Key(target, chosen, credentials, authority, credentials is not None), service_config)
    return lease.uri, given + [(name, value) for name, value in _defaults(target, given) if name not in names], lease


def _defaults(target: Target, given: Options) -> list[tuple[str, Any]]:
    values = dict(given)
    defaults: list[tuple[str, Any]] = [
        ("grpc.default_authority", target.authority),
        ("grpc.enable_http_proxy", 0),  # a proxy variable would disable xDS: the channel connects to the proxy
        ("grpc.priority_failover_timeout_ms", 1000),  # 10 s by default, for a zone that accepts TCP and does not answer
    ]
    if "grpc.keepalive_time_ms" in values:
        # Otherwise a hung peer is detected after 60 s, whatever the keepalive settings are.
        defaults.append(("grpc.http2.ping_timeout_ms", values.get("grpc.keepalive_timeout_ms", 10_000)))
    return defaults


def _opened(lease: Lease | None, open: Callable[[], grpc.Channel | RenewedChannel]) -> grpc.Channel:
    """gRPC's channel itself if gRPC resolves the target and keeps the channel, else one around it."""
    with released_on_error(lease):
        channel = open()
    return channel if lease is None and isinstance(channel, grpc.Channel) else _Channel(channel, lease)


@contextlib.contextmanager
def released_on_error(lease: Lease | None) -> Iterator[None]:
    """Keep nothing of a target whose channel cannot be opened."""
    try:
        yield
    except BaseException:
        if lease is not None:
            lease.release()
        raise


def check_of(lease: Lease | None) -> Callable[[], None]:
    """The one check per call: after a fork, gRPC would crash or never see a change again."""
    return (lambda: None) if lease is None else lease.check


class _Channel(grpc.Channel):
    """gRPC's own channel, plus the lease. A stub keeps the lease alive, as it keeps gRPC's channel alive."""

    def __init__(self, channel: grpc.Channel | RenewedChannel, lease: Lease | None) -> None:
        self._channel = channel
        self._lease = lease
        self._check = check_of(lease)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._check()
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._channel.unsubscribe(callback)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryUnary(self._channel.unary_unary(*args, **kwargs), self._check)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryStream(self._channel.unary_stream(*args, **kwargs), self._check)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamUnary(self._channel.stream_unary(*args, **kwargs), self._check)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamStream(self._channel.stream_stream(*args, **kwargs), self._check)

    def close(self) -> None:
        if self._lease is None or not self._lease.forked:
            self._channel.close()
        if self._lease is not None:
            self._lease.close()

    def __enter__(self) -> "_Channel":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Checked:
    """A method of a stub, with a check before every call."""

    def __init__(self, method: Any, check: Callable[[], None]) -> None:
        self._method = method
        self._check = check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return self._method(*args, **kwargs)


class _CheckedUnary(Checked):
    """One with one answer."""

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return self._method.with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return self._method.future(*args, **kwargs)


# Libraries such as google-api-core choose by isinstance. Not generic at run time.
class _UnaryUnary(_CheckedUnary, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    pass


class _UnaryStream(Checked, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    pass


class _StreamUnary(_CheckedUnary, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    pass


class _StreamStream(Checked, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    pass
