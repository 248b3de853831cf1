"""The server put together, in reading order: servicers, health, reflection, channelz, port."""

from dataclasses import dataclass

import grpc.aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from greeter.v1 import greeter_pb2_grpc as rpc

from ..options import server_options
from ..probes import LIVENESS
from ..settings import Settings
from ..telemetry import Telemetry
from . import servicer


class PortError(Exception):
    """The port cannot be had; the text names the setting and what to do."""


@dataclass(frozen=True)
class Assembled:
    """A server that is ready to start. Hold on to it: gRPC lets a server that nobody references vanish."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    port: int


async def assemble(settings: Settings, telemetry: Telemetry) -> Assembled:
    """Everything but the start. Raises PortError where the port is taken or the address is not this machine's."""
    server = grpc.aio.server(
        options=server_options(settings),
        maximum_concurrent_rpcs=settings.server.max_concurrent_rpcs,
    )
    rpc.add_GreeterServiceServicer_to_server(servicer.Greeter(settings.server.name), telemetry.on(server))

    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    for name in (health.OVERALL_HEALTH, servicer.NAME, LIVENESS):
        await healths.set(name, health_pb2.HealthCheckResponse.SERVING)

    if settings.server.reflection:
        reflection.enable_server_reflection([servicer.NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    if settings.server.channelz:
        channelz.add_channelz_servicer(server)

    address = f"{settings.server.host}:{settings.server.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortError(
            f"cannot listen on SERVER__HOST={settings.server.host} with SERVER__PORT={settings.server.port}: {error}; choose another"
        ) from None
    return Assembled(server, healths, port)
