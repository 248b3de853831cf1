"""What every call of the service passes on its way in: the limit of calls at one time, and the deadline for what it calls.

gRPC's own limit (maximum_concurrent_rpcs) counts and refuses health checks as well, so that Kubernetes would restart a server
for being busy. This one counts the service's calls only.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from .. import deadline
from ..handlers import Wrapping, behaviour_of, rebuilt

logger = logging.getLogger(__name__)

QUIET = 10.0
"""Seconds between two log lines about refused calls."""


class Admission:
    """Refuses what is more than `limit` calls at one time with RESOURCE_EXHAUSTED; None admits all. One event loop's."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._running = 0
        self._refused = 0

    def on(self, server: Any) -> Any:
        """What a generated `add_..._to_server` is given in the place of the server."""
        return Wrapping(server, self.wrap)

    def wrap(self, method: str, handler: Any) -> Any:
        """The same handler behind the limit. One that is not async runs on a thread and is handed through."""
        behaviour = behaviour_of(handler)
        if inspect.isasyncgenfunction(behaviour):

            async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._enter(context)
                try:
                    async for answer in behaviour(request, context):
                        yield answer
                finally:
                    self._running -= 1

            return rebuilt(handler, streamed)
        if inspect.iscoroutinefunction(behaviour):

            async def answered(request: Any, context: Any) -> Any:
                await self._enter(context)
                try:
                    return await behaviour(request, context)
                finally:
                    self._running -= 1

            return rebuilt(handler, answered)
        return handler

    async def _enter(self, context: Any) -> None:
        if self._limit is not None and self._running >= self._limit:
            if not self._refused:
                asyncio.get_running_loop().call_later(QUIET, self._report)
                logger.warning("%d calls at one time (SERVER__MAX_CONCURRENT_RPCS): refusing more", self._limit)
            self._refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"this server takes {self._limit} calls at one time")
        self._running += 1
        deadline.serve(context)

    def _report(self) -> None:
        refused, self._refused = self._refused, 0
        logger.warning("%d calls were refused in %g s, above %d at one time", refused, QUIET, self._limit)
