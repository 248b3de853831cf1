"""The load generator's own health, for its probes: NOT_SERVING until it has had its first connection."""

import logging

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .. import discovery
from ..defaults import LIVENESS
from ..settings import Settings
from ..settings.command import StartError

logger = logging.getLogger(__name__)


class Readiness:
    """Serves grpc.health.v1. `start` before the first call, `stop` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = 0

    async def start(self) -> None:
        """Serve, not ready yet. Raises StartError."""
        client = self._settings.client
        try:
            self.port = self._server.add_insecure_port(f"{client.health_host}:{client.health_port}")
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on CLIENT__HEALTH_HOST={client.health_host} with CLIENT__HEALTH_PORT={client.health_port}: {error}; choose another"
            ) from None
        await self._health.set(health.OVERALL_HEALTH, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def watch(self, channel: grpc.aio.Channel) -> None:
        """Become ready, once, at the first connection. Logs the reason every ten seconds until there are endpoints."""
        target = self._settings.client.target
        while discovery.parse_target(target).ours:
            try:
                await discovery.aio.wait_until_synced(target, 10.0)
                break
            except discovery.NotSyncedError as error:
                logger.warning("not ready: %s", error)
        await channel.channel_ready()
        await self._health.set(health.OVERALL_HEALTH, health_pb2.HealthCheckResponse.SERVING)
        logger.info("ready: calls go to %s", target)

    async def stop(self) -> None:
        """Report NOT_SERVING, and stop."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(1.0)
