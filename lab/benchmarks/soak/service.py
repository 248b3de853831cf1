"""A program for the project's interpreter: its server with a service of every kind of handler, of whose calls one in a hundred raises.

The argument is the project's package.
"""

import asyncio
import gc
import json
import os
import random
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc

package = sys.argv.pop(1)
main, servicer = import_module(f"{package}.server.__main__"), import_module(f"{package}.server.servicer")
Service = import_module(f"{package}.server").Service
raised = 0
"""How often a handler has."""


def perhaps_raise() -> None:
    global raised
    if random.random() < 0.01:
        raised += 1
        raise RuntimeError("one in a hundred")


async def once(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0)
    perhaps_raise()
    return request


def on_a_thread(request: bytes, context: Any) -> bytes:
    perhaps_raise()
    return request


async def several(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(5):
        yield request
        perhaps_raise()


async def written(request: bytes, context: Any) -> None:
    for _ in range(5):
        await context.write(request)
    perhaps_raise()


async def collected(requests: AsyncIterator[bytes], context: Any) -> bytes:
    found = [request async for request in requests]
    perhaps_raise()
    return b"".join(found)


async def echoed(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        perhaps_raise()
        yield request


async def hanging(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b""
    await asyncio.sleep(3600)


def memory() -> float:
    """Resident megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def counted(request: bytes, context: Any) -> bytes:
    """What may grow, and what has been raised."""
    gc.collect()
    found = [memory(), threading.active_count(), len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), raised]
    return json.dumps(found).encode()


def add(_: object, server: Any) -> None:
    unary, responses = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers: dict[str, Any] = {
        "Once": unary(once),
        "Thread": unary(on_a_thread),
        "Counted": unary(counted),
        "Several": responses(several),
        "Written": responses(written),
        "Hanging": responses(hanging),
        "Collected": grpc.stream_unary_rpc_method_handler(collected),
        "Echoed": grpc.stream_stream_rpc_method_handler(echoed),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Soak", handlers),))


@asynccontextmanager
async def services(settings: Any) -> AsyncIterator[list[Any]]:
    yield [Service("lab.Soak", add, None)]


servicer.services = services  # type: ignore[attr-defined]
main.main()
