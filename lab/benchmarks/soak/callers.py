"""Calls of every kind: read to their end, left, and with deadlines that pass."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

LIMIT = 64
"""The server's concurrency limit."""


class Callers:
    """Calls of all kinds; how they end."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        kinds: dict[str, Any] = {
            "unary_unary": ("Once", "Thread", "Counted"),
            "unary_stream": ("Several", "Written", "Hanging"),
            "stream_unary": ("Collected",),
            "stream_stream": ("Echoed",),
        }
        self._methods: dict[str, Any] = {
            name: getattr(channel, kind)(f"/lab.Soak/{name}") for kind, names in kinds.items() for name in names
        }
        self.codes: Counter[str] = Counter()

    async def loop(self, end: float) -> None:
        """One call after the other."""
        calls = (self._once, self._thread, self._stream, self._left, self._late, self._sent)
        while time.monotonic() < end:
            [call] = random.choices(calls, (70, 5, 10, 5, 5, 5))
            try:
                self.codes[await call()] += 1
            except grpc.aio.AioRpcError as error:
                self.codes[error.code().name] += 1

    async def counted(self) -> list[float]:
        """Megabytes, threads, descriptors, tasks of the server, and how often its handlers have raised."""
        found: list[float] = json.loads(await self._methods["Counted"](b"", timeout=20))
        return found

    async def fill(self) -> int:
        """How many calls the server admits at once."""
        streams = [self._methods["Hanging"](b"", timeout=20) for _ in range(LIMIT + 1)]
        first = await asyncio.gather(*(stream.read() for stream in streams), return_exceptions=True)
        for stream in streams:
            stream.cancel()
        return sum(each == b"" for each in first)

    async def _once(self) -> str:
        await self._methods["Once"](b"x" * random.choice((0, 10, 1000, 20_000)), timeout=20)
        return "OK"

    async def _thread(self) -> str:
        await self._methods["Thread"](b"x", timeout=20)
        return "OK"

    async def _stream(self) -> str:
        async for _ in self._methods[random.choice(("Several", "Written"))](b"x", timeout=20):
            pass
        return "OK"

    async def _left(self) -> str:
        stream = self._methods[random.choice(("Several", "Written", "Hanging"))](b"x", timeout=20)
        await stream.read()
        stream.cancel()
        return "left"

    async def _late(self) -> str:
        async for _ in self._methods["Hanging"](b"x", timeout=0.05):
            pass
        return "OK"

    async def _sent(self) -> str:
        async def requests() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x"

        if random.random() < 0.5:
            await self._methods["Collected"](requests(), timeout=20)
        else:
            async for _ in self._methods["Echoed"](requests(), timeout=20):
                pass
        return "OK"
