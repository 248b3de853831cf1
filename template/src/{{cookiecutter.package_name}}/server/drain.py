"""The drain: deregister, report NOT_SERVING, wait for clients to react, then stop with a grace period.

gRPC's stop cancels calls that have arrived but not begun, so by then there must not be any; hence the wait.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..settings import Drain
from .app import App

logger = logging.getLogger(__name__)

DEREGISTER = 1.0
"""Seconds for which a drain waits for the registry before it goes on."""
FOR_EVER = 86400.0
"""A grace period in seconds that the pod does not outlive."""


async def drain(app: App, settings: Drain, deregister: Callable[[], Awaitable[None]] | None = None) -> None:
    """Stop the server. Returns when the last call has ended."""
    if deregister is not None:
        # A registry that does not answer must not use up the pod's time; the entry's lease expires by itself.
        await asyncio.wait({asyncio.ensure_future(deregister())}, timeout=DEREGISTER)
    await app.health.drain()
    logger.info("draining: NOT_SERVING, waiting %g s, then up to %g s for calls in progress", settings.wait, settings.grace)
    await asyncio.sleep(settings.wait)
    # Only now: what ends a stream earlier would have its client call again while some clients still send calls here.
    app.drain.set()
    app.health.close()
    # Not gRPC's own grace period: if it ends during another stop, gRPC uses memory after it was freed.
    stopping = asyncio.ensure_future(app.server.stop(FOR_EVER))
    await asyncio.wait({stopping}, timeout=settings.grace)
    if not stopping.done():
        await app.server.stop(None)
    await stopping
    await app.limit.idle(1.0)  # until canceled handlers have ended, and telemetry has their calls
    logger.info("stopped")
