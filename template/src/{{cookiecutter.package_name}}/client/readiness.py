"""The load generator's own health, for its probes: NOT_SERVING until its first connection, SERVING from then on. A connection that is
lost later does not count: gRPC makes the next one, and a restart of this process would help nobody."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .. import discovery
from ..defaults import LIVENESS
from ..settings import Client
from ..settings.command import StartError

logger = logging.getLogger(__name__)
NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


@contextlib.asynccontextmanager
async def readiness(settings: Client, channel: grpc.aio.Channel) -> AsyncIterator[int]:
    """Serve grpc.health.v1 on the port that it yields. Raises StartError."""
    server, servicer = grpc.aio.server(options=[("grpc.so_reuseport", 0)]), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(f"{settings.health_host}:{settings.health_port}")
    except RuntimeError as error:
        given = f"CLIENT__HEALTH_HOST={settings.health_host} with CLIENT__HEALTH_PORT={settings.health_port}"
        raise StartError(f"cannot listen on {given}: {error}; choose another") from None
    await servicer.set(health.OVERALL_HEALTH, NOT_SERVING)
    await servicer.set(LIVENESS, SERVING)
    await server.start()
    connecting = asyncio.create_task(_connected(settings.target, channel, servicer))
    try:
        yield port
    finally:
        connecting.cancel()
        await server.stop(0)


async def _connected(target: str, channel: grpc.aio.Channel, servicer: health.aio.HealthServicer) -> None:
    while discovery.parse_target(target).ours:
        try:
            await discovery.aio.wait_until_synced(target, 10.0)
            break
        except discovery.NotSyncedError as error:
            logger.warning("not ready: %s", error)
    await channel.channel_ready()
    await servicer.set(health.OVERALL_HEALTH, SERVING)
    logger.info("ready: calls go to %s", target)
