"""From an update to the first call on the new server, while calls go on at a thousand a second."""

import asyncio
import time
import uuid
from collections.abc import Iterator

import discovery

from .peers import method, servers
from .report import Row, row

SAMPLES, RATE = 100, 1000


async def _measure() -> list[float]:
    found = []
    with servers(4) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        manual = discovery.Manual(uuid.uuid4().hex)
        manual.set(addresses[:3])
        async with discovery.aio.insecure_channel(manual.target) as channel:
            call = method(channel)
            calls: set[asyncio.Task[None]] = set()
            first = asyncio.Event()

            async def once() -> None:
                if await call(b"x", timeout=20) == b"3":
                    first.set()

            async def traffic() -> None:
                began, made = time.perf_counter(), 0
                while True:
                    made += 1
                    task = asyncio.create_task(once())
                    calls.add(task)
                    task.add_done_callback(calls.discard)
                    await asyncio.sleep(max(0.0, began + made / RATE - time.perf_counter()))

            going = asyncio.create_task(traffic())
            await asyncio.sleep(0.5)
            for _ in range(SAMPLES):
                first.clear()
                changed = time.perf_counter()
                manual.set(addresses)
                await asyncio.wait_for(first.wait(), 20)
                found.append((time.perf_counter() - changed) * 1000)
                manual.set(addresses[:3])
                await asyncio.sleep(0.1)
                first.clear()
            going.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    return found


def measure() -> Iterator[Row]:
    """The spread's upper end is near the 99th percentile of a hundred."""
    yield row("manual update to first call on the new server, 1,000 calls/s", "ms", asyncio.run(_measure()), 50)
