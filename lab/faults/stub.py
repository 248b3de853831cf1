"""A server of the lab's own, which answers calls of any service: badly, where that is the fault."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from lab.load import SERVED_BY

WATCH = "/grpc.health.v1.Health/Watch"
SERVING = bytes((8, 1))
"""A HealthCheckResponse with that status."""

Behavior = Callable[[Any], Awaitable[None]]
"""Awaited in every call, with its context; may wait, or abort the call."""


class Stub(grpc.GenericRpcHandler):
    """Answers every unary call with an empty message once `behavior` has returned. seen, served: calls that came, that were answered."""

    def __init__(self, name: str, behavior: Behavior) -> None:
        self.name = name
        self.authority = ""
        self.seen = self.served = 0
        self._behavior = behavior

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == WATCH:
            return grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.seen += 1
        await self._behavior(context)
        await context.send_initial_metadata(((SERVED_BY, self.name),))
        self.served += 1
        return b""

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield SERVING
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def stub(name: str, behavior: Behavior) -> AsyncIterator[Stub]:
    """One that serves on loopback while the block runs."""
    handler = Stub(name, behavior)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    handler.authority = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield handler
    finally:
        await server.stop(0)


def slow(seconds: float) -> Behavior:
    """Answers after so many seconds."""

    async def behave(context: Any) -> None:
        await asyncio.sleep(seconds)

    return behave


def failing(code: grpc.StatusCode) -> Behavior:
    """Never answers but with this status."""

    async def behave(context: Any) -> None:
        await context.abort(code, "out of order")

    return behave


def busy(limit: int, seconds: float) -> Behavior:
    """So many calls at a time, each for so many seconds; more are UNAVAILABLE, as an overloaded proxy answers."""
    running = 0

    async def behave(context: Any) -> None:
        nonlocal running
        if running >= limit:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        running += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            running -= 1

    return behave
