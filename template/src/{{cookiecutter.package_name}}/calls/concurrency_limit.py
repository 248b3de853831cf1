"""The limit of concurrent calls.

gRPC's own limit (maximum_concurrent_rpcs) counts and refuses health checks as well, so Kubernetes would restart a busy server.
This one counts the services' calls only.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from ..defaults import PREFIX
from . import deadline
from .method_handlers import Wrapping, behavior_of, rebuilt

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 10.0
"""Seconds between two log lines about refused calls."""


class ConcurrencyLimit:
    """Refuses calls above `limit` concurrent ones with RESOURCE_EXHAUSTED; None has no limit. For one event loop."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._running = 0
        self._refused = 0

    def on(self, server: Any) -> Any:
        """What a generated `add_..._to_server` is given in the place of the server."""
        return Wrapping(server, self.wrap)

    def wrap(self, method: str, handler: Any) -> Any:
        """The same handler behind the limit. One that is not async runs on a thread of gRPC's and is not limited."""
        behavior = behavior_of(handler)
        if inspect.isasyncgenfunction(behavior):

            async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._enter(context)
                try:
                    async for answer in behavior(request, context):
                        yield answer
                finally:
                    self._running -= 1

            return rebuilt(handler, streamed)
        if inspect.iscoroutinefunction(behavior):

            async def answered(request: Any, context: Any) -> Any:
                await self._enter(context)
                try:
                    return await behavior(request, context)
                finally:
                    self._running -= 1

            return rebuilt(handler, answered)
        return handler

    async def _enter(self, context: Any) -> None:
        if self._limit is not None and self._running >= self._limit:
            if not self._refused:
                asyncio.get_running_loop().call_later(REPORT_INTERVAL, self._report)
                logger.warning("concurrency limit reached: %d calls (%sSERVER__MAX_CONCURRENT_RPCS)", self._limit, PREFIX)
            self._refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"concurrency limit reached: {self._limit} calls")
        self._running += 1
        deadline.serve(context)

    def _report(self) -> None:
        refused, self._refused = self._refused, 0
        logger.warning("%d calls refused in %g s above the concurrency limit of %d", refused, REPORT_INTERVAL, self._limit)
