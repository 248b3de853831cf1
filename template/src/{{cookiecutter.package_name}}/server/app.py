"""Builds the server: services, health, reflection, channelz, ports."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ..defaults import PREFIX
from ..discovery import CertificateFiles
from ..discovery.calls import telemetry
from ..discovery.calls.authorization import Authorization
from ..discovery.calls.concurrency_limit import ConcurrencyLimit
from ..discovery.calls.handler import Calls
from ..settings import Settings
from ..settings.command import StartError
from ..tls import TlsError, server_files
from . import Service
from .health import Health
from .interceptors import interceptors
from .options import server_options

CHECKS, WATCHES, ADMIN_CALLS = 100, 1000, 100
"""Concurrent health checks, health watches, which take memory until their clients leave, and calls of reflection and channelz."""


@dataclass
class App:
    """A server that is ready to start. Keep a reference: gRPC stops a server that nothing references."""

    server: grpc.aio.Server
    health: Health
    drain: asyncio.Event
    """Set when calls in progress are to end."""
    limit: ConcurrencyLimit
    """Of the services' calls."""
    port: int
    health_server: grpc.aio.Server | None
    """For plaintext probes, if there is one."""
    health_port: int | None
    certificates: CertificateFiles | None
    unsubscribe: Callable[[], object] = lambda: None

    async def start(self) -> None:
        """Serve, and watch the certificates."""
        if self.certificates is not None:
            self.unsubscribe = self.certificates.subscribe(lambda credentials: None)
        await self.health.update()
        await self.server.start()
        if self.health_server is not None:
            await self.health_server.start()

    async def close(self) -> None:
        """After the drain, which stops `server`: until then, probes are answered."""
        self.unsubscribe()
        if self.health_server is not None:
            await self.health_server.stop(0)


async def build(settings: Settings, services: Sequence[Service]) -> App:
    """The server, not started. Raises StartError if a port or the address is not available, TlsError if certificates are not usable."""
    own, mutual, drain = settings.server, settings.tls.mode == "mtls", asyncio.Event()
    allowed = settings.tls.allowed_clients
    try:
        authorization = None if allowed is None else Authorization(allowed)
    except ValueError as error:
        raise TlsError(f"TLS__ALLOWED_CLIENTS: {error}") from None
    limit = ConcurrencyLimit(
        own.max_concurrent_rpcs,
        own.max_bytes_in_flight,
        f"calls ({PREFIX}SERVER__MAX_CONCURRENT_RPCS)",
        f"bytes ({PREFIX}SERVER__MAX_BYTES_IN_FLIGHT)",
    )
    measured = telemetry.ServerTelemetry(own.host, own.port) if telemetry.enabled() else None
    around = functools.partial(Calls, name=own.name, drain=drain)
    calls = around(authorization=authorization, limit=limit, telemetry=measured)
    admin = around(authorization=authorization, limit=ConcurrencyLimit(ADMIN_CALLS, None, "calls of reflection and channelz"))
    # Watches have a limit of their own, or they would keep probes out.
    checks = around(limit=ConcurrencyLimit(CHECKS, None, "checks"), stream_limit=ConcurrencyLimit(WATCHES, None, "watches"))

    certificates = server_files(settings)
    server = grpc.aio.server(options=server_options(settings), interceptors=interceptors(settings))
    for service in services:
        service.register(service.servicer, calls.on(server))
    health_servicer = Health(services)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, checks.on(server))
    # With mTLS, internals are not exposed to every client unless a setting says so.
    if not mutual if own.reflection is None else own.reflection:
        listed = [*(service.name for service in services), health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(listed), admin.on(server))
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), admin.on(server))

    credentials = None if certificates is None else certificates.server_credentials(require_client=mutual)
    port = _open(server, settings, "PORT", own.port, credentials)
    health_server, health_port = None, None
    if own.health_port is not None:
        health_server = grpc.aio.server(options=server_options(settings))
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, checks.on(health_server))
        health_port = _open(health_server, settings, "HEALTH_PORT", own.health_port, None)
    return App(server, health_servicer, drain, limit, port, health_server, health_port, certificates)


def _open(
    server: grpc.aio.Server, settings: Settings, setting: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    host = settings.server.host
    address = f"{host}:{port}"
    try:
        return server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"cannot listen on SERVER__HOST={host} with SERVER__{setting}={port}: {error}; choose another") from None
