"""A target and options in, a gRPC channel out: the functions that replace grpc's own.

`aio.py` is the same for grpc.aio. Both open gRPC's own channel and add only one check to the path of a call.
"""

from collections.abc import Callable, Sequence
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
    return wrap(grpc.insecure_channel(uri, prepared, compression), lease)


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
    if isinstance(credentials, CertificateFiles):
        opened: grpc.Channel = RenewedChannel(
            credentials, lambda current: grpc.secure_channel(uri, current, prepared, compression)
        )
    else:
        opened = grpc.secure_channel(uri, credentials, prepared, compression)
    return wrap(opened, lease)


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


def wrap(channel: grpc.Channel, lease: Lease | None) -> grpc.Channel:
    """The channel itself if gRPC resolves the target, else one that releases its lease."""
    return channel if lease is None else _Channel(channel, lease)


class _Channel(grpc.Channel):
    """gRPC's own channel, plus the lease. A stub keeps the lease alive, as it keeps gRPC's channel alive."""

    def __init__(self, channel: grpc.Channel, lease: Lease) -> None:
        self._channel = channel
        self._lease = lease

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._lease.check()
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._channel.unsubscribe(callback)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Unary(self._channel.unary_unary(*args, **kwargs), self._lease)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Call(self._channel.unary_stream(*args, **kwargs), self._lease)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Unary(self._channel.stream_unary(*args, **kwargs), self._lease)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Call(self._channel.stream_stream(*args, **kwargs), self._lease)

    def close(self) -> None:
        if not self._lease.forked:
            self._channel.close()
        self._lease.close()

    def __enter__(self) -> "_Channel":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Call:
    """A method of a stub. The one check per call: after a fork, gRPC would crash or never see a change again."""

    __slots__ = ("_inner", "_lease")

    def __init__(self, inner: Any, lease: Lease) -> None:
        self._inner = inner
        self._lease = lease

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._lease.check()
        return self._inner(*args, **kwargs)


class _Unary(_Call):
    """A method with one answer."""

    __slots__ = ()

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        self._lease.check()
        return self._inner.with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        self._lease.check()
        return self._inner.future(*args, **kwargs)
