"""The limits of what is in progress at once: calls, and the bytes of their requests.

gRPC's own limit (maximum_concurrent_rpcs) also rejects health checks, so Kubernetes would restart a busy server; and it limits no memory.
"""

import asyncio
import logging
from collections import deque
from typing import Any

logger = logging.getLogger(__name__)

SMALL = 16 * 1024
"""Requests up to this size, in bytes, are not counted: a thousand of them fit."""
READERS, PATIENCE = 16, 5.0
"""Large requests that are received at once, and the seconds after which a slow sender no longer keeps others from it."""


class ConcurrencyLimit:
    """Rejects calls above `calls` concurrent ones, and lets requests wait while those in flight have `size` bytes; None is no limit.

    what: named in errors and in the log.   setting: what raises the limit.   For one event loop.
    """

    def __init__(self, calls: int | None = None, size: int | None = None, *, what: str = "calls", setting: str = "") -> None:
        self._calls = calls
        self._size = size
        self._sentence = f"concurrency limit reached: {calls} {what}"
        self._setting = f" ({setting})" if setting else ""
        self._running = 0
        self._bytes = 0
        self._rejected = 0
        self._readers: dict[Any, float] = {}  # since when each one reads
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> str:
        """Admit a call; otherwise the reason why it is rejected, which is logged once a second."""
        if self._calls is None or self._running < self._calls:
            self._running += 1
            return ""
        if not self._rejected:
            asyncio.get_running_loop().call_later(1.0, self._report)
        self._rejected += 1
        return self._sentence

    def leave(self) -> None:
        """A call that was admitted has ended."""
        self._running -= 1

    async def receive(self, context: Any) -> Any:
        """Read the request of a call: bytes, or grpc.aio.EOF. gRPC receives a message as a whole, so no more than READERS do at once."""
        loop = asyncio.get_running_loop()
        while len(self._readers) >= READERS:
            first, since = next(iter(self._readers.items()))
            if loop.time() - since > PATIENCE:
                del self._readers[first]
            else:
                await self._change(since + PATIENCE - loop.time())
        self._readers[context] = loop.time()
        try:
            return await self.hold(await context.read())
        finally:
            self._readers.pop(context, None)
            self._wake()

    async def hold(self, raw: Any) -> Any:
        """Wait until a request fits among those in flight, and count it until `release`."""
        size = self.counted(raw)
        while self._size is not None and self._bytes and self._bytes + size > self._size:
            await self._change()
        self._bytes += size
        return raw

    def counted(self, raw: Any) -> int:
        """The bytes of a request that count."""
        return len(raw) if len(raw) > SMALL else 0

    def release(self, size: int) -> None:
        """A request of `size` bytes is in flight no more."""
        self._bytes -= size
        self._wake()

    async def _change(self, timeout: float | None = None) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await asyncio.wait({waiter}, timeout=timeout)

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _report(self) -> None:
        rejected, self._rejected = self._rejected, 0
        logger.warning("%s%s; rejected in a second: %d", self._sentence, self._setting, rejected)
