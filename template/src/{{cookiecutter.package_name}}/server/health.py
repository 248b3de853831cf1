"""The health service (grpc.health.v1): a status for each service, for all of them together, and for liveness."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from ..defaults import LIVENESS
from . import Service


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the package has no types
    """SERVING for a service while it serves, for "" while all of them do, and for LIVENESS as long as the event loop answers."""

    def __init__(self, services: Sequence[Service]) -> None:
        super().__init__()
        self._services = services
        self._draining = False
        self._watches: set[asyncio.Timeout] = set()
        for service in services:
            service.update = self.update

    async def update(self) -> None:
        """Publish the statuses of the services. During a drain, all are NOT_SERVING."""
        serving = {service.name: service.serving and not self._draining for service in self._services}
        serving |= {health.OVERALL_HEALTH: all(serving.values()) and not self._draining, LIVENESS: True}
        response = health_pb2.HealthCheckResponse
        for name, status in serving.items():
            await self.set(name, response.SERVING if status else response.NOT_SERVING)

    async def drain(self) -> None:
        """Report NOT_SERVING from now on."""
        self._draining = True
        await self.update()

    def close(self) -> None:
        """End all watches; they would keep the server from stopping."""
        for watch in self._watches:
            watch.reschedule(asyncio.get_running_loop().time())

    async def Watch(self, request: Any, context: Any) -> None:
        watch = asyncio.timeout(None)
        try:
            async with watch:
                self._watches.add(watch)
                await super().Watch(request, context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
        finally:
            self._watches.discard(watch)
