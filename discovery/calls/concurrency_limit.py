"""The limits of what is in progress at once: calls, and the bytes of their requests.

gRPC's own limit (maximum_concurrent_rpcs) also rejects health checks, so Kubernetes would restart a busy server; and it limits no memory.
"""

import asyncio
import time
from collections import deque

SMALL = 16 * 1024
"""Requests up to this size, in bytes, are not counted: a thousand of them fit."""
READERS, PATIENCE = 8, 5.0
"""How many requests are received at once, because gRPC receives a message as a whole; and the seconds for which a slow sender counts, and
a request waits for others to end."""


class ConcurrencyLimit:
    """Rejects calls above `calls` concurrent ones, and lets requests wait while those in flight have `size` bytes; None is no limit.

    what, unit: of the two limits, for errors.   For one event loop.
    """

    def __init__(self, calls: int | None = None, size: int | None = None, what: str = "calls", unit: str = "bytes") -> None:
        self._calls = calls
        self._size = size
        self._too_many = f"concurrency limit reached: {calls} {what}"
        self._too_large = f"limit of requests in flight reached: {size} {unit}"
        self._running = 0
        self._bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._reading = 0
        """The number of requests that are being received, but for those that began in an earlier generation."""
        self._generation = 1

    def enter(self) -> str:
        """Admit a call; otherwise the reason why it is rejected."""
        if self._calls is None or self._running < self._calls:
            self._running += 1
            return ""
        return self._too_many

    def leave(self) -> None:
        """A call that was admitted has ended."""
        self._running -= 1
        if self._waiting:
            self._wake()

    async def idle(self, timeout: float) -> None:
        """Wait until no call is in progress, for at most `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._running and (left := end - time.monotonic()) > 0:
            await self._change(left)

    def begin(self) -> int:
        """Begin to receive a request; the generation, which is for `received`. 0 if READERS are being received already: await `turn`."""
        if self._reading >= READERS:
            return 0
        self._reading += 1
        return self._generation

    async def turn(self) -> int:
        """Begin to receive a request, as soon as fewer than READERS are being received."""
        end = time.monotonic() + PATIENCE
        while not (generation := self.begin()):
            if (left := end - time.monotonic()) > 0:
                await self._change(left)
            else:  # those that are being received now do not count any more
                self._generation += 1
                self._reading = 0
        return generation

    def received(self, generation: int) -> None:
        """A request has been received, or will not be."""
        if generation == self._generation:
            self._reading -= 1
            if self._waiting:
                self._wake()

    async def hold(self, size: int) -> str:
        """Count a request of `size` bytes until `release`, as soon as it fits among those in flight; otherwise the reason why not."""
        end = time.monotonic() + PATIENCE
        while self._size is not None and self._bytes and self._bytes + size > self._size:
            if (left := end - time.monotonic()) <= 0:
                return self._too_large
            await self._change(left)
        self._bytes += size
        return ""

    def release(self, size: int) -> None:
        """A request of `size` bytes is in flight no more."""
        self._bytes -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, timeout: float | None = None) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await asyncio.wait({waiter}, timeout=timeout)
