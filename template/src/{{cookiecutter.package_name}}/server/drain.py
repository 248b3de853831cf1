"""The end of a server that loses no call: deregister, say NOT_SERVING, wait until everybody knows, stop with grace.

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
"""A grace in seconds that never ends, for the pod does before."""


class Signals:
    """SIGTERM and SIGINT of this process: the first asks for a drain, the second for an immediate end."""

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
    """End the server; `at_once` cuts the wait and the grace short. Seconds as in the settings."""
    if deregister is not None:
        # A registry that does not answer must not use up the pod's time; its lease ends the entry by itself.
        await asyncio.wait({asyncio.ensure_future(deregister())}, timeout=DEREGISTER)
    await app.health.enter_graceful_shutdown()
    logger.info(
        "draining: not serving any more, waiting %g s, then up to %g s for calls under way", settings.wait, settings.grace
    )
    await _first_of(asyncio.sleep(settings.wait), at_once.wait())
    # Not gRPC's own grace: when that ends while another stop is under way, one of the two uses what the other has freed.
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
