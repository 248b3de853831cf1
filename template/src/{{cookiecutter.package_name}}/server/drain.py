"""The drain: deregister, report NOT_SERVING, wait for clients to react, then stop with a grace period.

gRPC's stop cancels calls that have arrived but not begun, so by then there must not be any; hence the wait.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from ..settings import Drain
from .app import App

logger = logging.getLogger(__name__)

DEREGISTER = 1.0
"""Seconds for which a drain waits for the registry before it goes on."""
FOR_EVER = 86400.0
"""A grace period in seconds that the pod does not outlive."""


class Signals:
    """SIGTERM and SIGINT of this process: the first requests a drain, the second an immediate stop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def drain(
    app: App, settings: Drain, at_once: asyncio.Event, deregister: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Stop the server; `at_once` skips the rest of the wait and of the grace period."""
    if deregister is not None:
        # A registry that does not answer must not use up the pod's time; the entry's lease expires by itself.
        await asyncio.wait({asyncio.ensure_future(deregister())}, timeout=DEREGISTER)
    await app.health.enter_graceful_shutdown()
    logger.info("draining: NOT_SERVING, waiting %g s, then up to %g s for calls in progress", settings.wait, settings.grace)
    await _first_of(asyncio.sleep(settings.wait), at_once.wait())
    # Not gRPC's own grace period: if it ends during another stop, gRPC uses memory after it was freed.
    stopping = asyncio.ensure_future(app.server.stop(FOR_EVER))
    await _first_of(asyncio.shield(stopping), asyncio.sleep(0 if at_once.is_set() else settings.grace), at_once.wait())
    if not stopping.done():
        await app.server.stop(None)
    await stopping
    logger.info("stopped")


async def _first_of(*work: Awaitable[Any]) -> None:
    tasks = {asyncio.ensure_future(each) for each in work}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
