"""Builds the server: services, health, reflection, channelz, ports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ..calls.authorization import Authorization
from ..calls.concurrency_limit import ConcurrencyLimit
from ..calls.served_by import ServedBy
from ..defaults import LIVENESS
from ..discovery import CertificateFiles
from ..settings import Settings
from ..settings.command import StartError
from ..telemetry import Telemetry
from ..tls import server_files
from . import Service
from .interceptors import interceptors
from .options import server_options

HEALTH_CALLS = 100
"""Concurrent calls on the port for health alone; a probe is one."""


@dataclass
class App:
    """A server that is ready to start. Keep a reference: gRPC stops a server that nothing references."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
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
        await self.server.start()
        if self.health_server is not None:
            await self.health_server.start()

    async def close(self) -> None:
        """After the drain, which stops `server`: until then, probes are answered."""
        self.unsubscribe()
        if self.health_server is not None:
            await self.health_server.stop(0)


async def build(settings: Settings, telemetry: Telemetry, services: Sequence[Service]) -> App:
    """The server, not started. Raises StartError if a port or the address is not available, TlsError if certificates are not usable."""
    certificates = server_files(settings)
    mutual = settings.tls.mode == "mtls"
    server = grpc.aio.server(options=server_options(settings), interceptors=interceptors(settings))
    named, named_first = ServedBy(settings.server.name), ServedBy(settings.server.name, initial=True)
    restricted = _authorized(named_first.on(server), settings)
    limited = ConcurrencyLimit(settings.server.max_concurrent_rpcs).on(_authorized(telemetry.on(named.on(server)), settings))
    for service in services:
        service.register(service.servicer, limited)

    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, named_first.on(server))
    names = [service.name for service in services]
    for name in (health.OVERALL_HEALTH, *names, LIVENESS):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    # With mTLS, internals are not exposed to every client unless a setting says so.
    if settings.server.reflection if settings.server.reflection is not None else not mutual:
        listed = [*names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(listed), restricted)
    if settings.server.channelz if settings.server.channelz is not None else not mutual:
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), restricted)

    credentials = None if certificates is None else certificates.server_credentials(require_client=mutual)
    port = _open(server, settings, "PORT", settings.server.port, credentials)
    health_server, health_port = None, None
    if settings.server.health_port is not None:
        health_server = grpc.aio.server(options=server_options(settings), maximum_concurrent_rpcs=HEALTH_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, named_first.on(health_server))
        health_port = _open(health_server, settings, "HEALTH_PORT", settings.server.health_port, None)
    return App(server, health_servicer, port, health_server, health_port, certificates)


def _authorized(server: Any, settings: Settings) -> Any:
    """The server behind the authorization rules, if there are any."""
    return server if settings.tls.allowed_clients is None else Authorization(settings.tls.allowed_clients).on(server)


def _open(
    server: grpc.aio.Server, settings: Settings, setting: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    host = settings.server.host
    address = f"[{host}]:{port}" if ":" in host and "[" not in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"cannot listen on SERVER__HOST={host} with SERVER__{setting}={port}: {error}; choose another") from None
