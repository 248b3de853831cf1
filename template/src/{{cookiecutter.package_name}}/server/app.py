"""The server put together, in reading order: servicers, health, reflection, channelz, ports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from discovery import CertificateFiles
from greeter.v1 import greeter_pb2_grpc as rpc

from ..authorization import Authorisation, RuleError
from ..options import server_options
from ..probes import LIVENESS
from ..settings import Settings
from ..telemetry import Telemetry
from ..tls import TlsError, server_credentials, server_files
from . import servicer
from .concurrency_limit import Admission


class PortError(Exception):
    """The port cannot be had; the text names the setting and what to do."""


HEALTH_CALLS = 100
"""Calls at one time on the port for health alone; a probe is one."""


@dataclass
class Assembled:
    """A server that is ready to start. Hold on to it: gRPC lets a server that nobody references vanish."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    port: int
    health_server: grpc.aio.Server | None
    """For probes in plaintext, where it is wanted."""
    health_port: int | None
    certificates: CertificateFiles | None
    unsubscribe: Callable[[], object] = lambda: None

    async def start(self) -> None:
        """Serve, and follow the certificates."""
        if self.certificates is not None:
            self.unsubscribe = self.certificates.subscribe(lambda credentials: None)
        await self.server.start()
        if self.health_server is not None:
            await self.health_server.start()

    async def close(self) -> None:
        """After the drain, which ends `server`: probes have heard of it all the while."""
        self.unsubscribe()
        if self.health_server is not None:
            await self.health_server.stop(0)


async def assemble(settings: Settings, telemetry: Telemetry) -> Assembled:
    """Everything but the start. Raises PortError where a port is taken or the address is not this machine's, TlsError
    where certificates cannot be used."""
    certificates = server_files(settings)
    mutual = settings.tls.mode == "mtls"
    server = grpc.aio.server(options=server_options(settings))
    admission = Admission(settings.server.max_concurrent_rpcs)
    allowed = settings.tls.allowed_clients
    on: Callable[[Any], Any] = _everyone if allowed is None else _rules(allowed).on
    rpc.add_GreeterServiceServicer_to_server(servicer.Greeter(settings.server.name), admission.on(on(telemetry.on(server))))

    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    for name in (health.OVERALL_HEALTH, servicer.NAME, LIVENESS):
        await healths.set(name, health_pb2.HealthCheckResponse.SERVING)

    # What tells of the inside is not for everyone whom mTLS lets in, unless somebody says so.
    if settings.server.reflection if settings.server.reflection is not None else not mutual:
        names = [servicer.NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), on(server))
    if settings.server.channelz if settings.server.channelz is not None else not mutual:
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), on(server))

    credentials = None if certificates is None else server_credentials(certificates, require_client=mutual)
    port = _open(server, settings, "PORT", settings.server.port, credentials)
    health_server, health_port = None, None
    if settings.server.health_port is not None:
        health_server = grpc.aio.server(options=server_options(settings), maximum_concurrent_rpcs=HEALTH_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(healths, health_server)
        health_port = _open(health_server, settings, "HEALTH_PORT", settings.server.health_port, None)
    return Assembled(server, healths, port, health_server, health_port, certificates)


def _everyone(server: Any) -> Any:
    return server


def _rules(allowed: Any) -> Authorisation:
    try:
        return Authorisation(allowed)
    except RuleError as error:
        raise TlsError(f"TLS__ALLOWED_CLIENTS cannot be used: {error}") from None


def _open(
    server: grpc.aio.Server, settings: Settings, setting: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    address = f"{settings.server.host}:{port}"
    try:
        return server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortError(
            f"cannot listen on SERVER__HOST={settings.server.host} with SERVER__{setting}={port}: {error}; choose another"
        ) from None
