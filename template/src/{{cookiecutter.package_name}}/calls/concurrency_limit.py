"""The limit of concurrent calls.

gRPC's own limit (maximum_concurrent_rpcs) also counts and rejects health checks, so Kubernetes would restart a busy server.
This one counts only the services' calls.
"""

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio

from ..defaults import PREFIX
from . import deadline
from .method_handlers import Layer

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 10.0
"""Seconds between two log lines about rejected calls."""


class ConcurrencyLimit(Layer):
    """Rejects calls above `limit` concurrent ones with RESOURCE_EXHAUSTED; None means no limit.

    For one event loop. A handler that is not async runs on one of gRPC's threads and is not counted.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._running = 0
        self._refused = 0

    async def enter(self, method: str, context: Any) -> Any:
        if self._limit is not None and self._running >= self._limit:
            if not self._refused:
                asyncio.get_running_loop().call_later(REPORT_INTERVAL, self._report)
                logger.warning("concurrency limit reached: %d calls (%sSERVER__MAX_CONCURRENT_RPCS)", self._limit, PREFIX)
            self._refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"concurrency limit reached: {self._limit} calls")
        self._running += 1
        deadline.serve(context)
        return context

    async def leave(self, context: Any) -> None:
        self._running -= 1

    def _report(self) -> None:
        refused, self._refused = self._refused, 0
        logger.warning("%d calls rejected in %g s above the concurrency limit of %d", refused, REPORT_INTERVAL, self._limit)
