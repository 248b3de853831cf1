"""A call's context, also for what outlives the call: gRPC's own would read memory that it has freed, and end the process."""

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

from greeter.discovery.calls.handler import Calls

from .calls import served
from .processes import DEADLINE

NAMES = ("peer", "auth_context", "invocation_metadata", "peer_identities", "peer_identity_key")


def asked(context: Any) -> list[str]:
    """What each of these answers, or that the call has ended."""
    found = []
    for name in NAMES:
        try:
            found.append(type(getattr(context, name)()).__name__)
        except grpc.aio.UsageError as error:
            found.append(str(error))
    return found


class Handlers:
    """Of a call that ends while a thread or a task still has its context."""

    def __init__(self) -> None:
        self.begun, self.left = asyncio.Event(), threading.Event()
        self.loop = asyncio.get_running_loop()
        self.during: list[str] = []
        self.after: asyncio.Future[list[str]] = self.loop.create_future()

    def on_a_thread(self, request: bytes, context: Any) -> bytes:
        self.during = asked(context)
        self.loop.call_soon_threadsafe(self.begun.set)
        self.left.wait(DEADLINE)
        found = asked(context)
        self.loop.call_soon_threadsafe(self.after.set_result, found)
        return b""

    async def in_a_task(self, request: bytes, context: Any) -> bytes:
        async def outlives() -> None:
            await asyncio.to_thread(self.left.wait, DEADLINE)
            self.after.set_result(asked(context))

        self.during = asked(context)
        self.task = asyncio.create_task(outlives())
        self.begun.set()
        await asyncio.Event().wait()
        return b""


@pytest.mark.parametrize("method", ["on_a_thread", "in_a_task"])
async def test_what_outlives_its_call_gets_an_error_from_the_context(method: str) -> None:
    """During the call it answers; after the caller has left, it raises."""
    handlers = Handlers()
    handler = grpc.method_handlers_generic_handler(
        "test.Service", {method: grpc.unary_unary_rpc_method_handler(getattr(handlers, method))}
    )
    calls = Calls()
    async with (
        served(lambda server: calls.on(server).add_generic_rpc_handlers((handler,))) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        function: Any = channel.unary_unary(f"/test.Service/{method}")
        call = function(b"", timeout=DEADLINE)
        await asyncio.wait_for(handlers.begun.wait(), DEADLINE)
        call.cancel()
        await asyncio.wait_for(calls.limit.idle(DEADLINE), DEADLINE)
        handlers.left.set()
        after = await asyncio.wait_for(handlers.after, DEADLINE)
    assert handlers.during[0] == "str"
    assert not any("ended" in found for found in handlers.during)
    assert after == [f"the call has ended: its context has no {name} any more" for name in NAMES]
