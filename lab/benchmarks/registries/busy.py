"""A client with calls going on, told through a pipe what to look out for."""

import asyncio
import time
from multiprocessing.connection import Connection

import grpc.aio

import discovery

from ..peers import method
from ..zones import traffic
from .stages import ANSWERED, BEGAN, Trace

RATE = 1000
"""Calls a second."""

NEW = b"3"
"""Who comes and goes."""


def busy(pipe: Connection, target: str, config: discovery.Config, *places: str, trace: Trace | None = None) -> None:
    """Calls at RATE until the process is killed. `places` is for manual. What comes through the pipe:

    "arm": answer with the moment of the next answer of NEW, with a trace with the moments of all stages by name.
    "connect", address: answer with the milliseconds that a bare channel takes to connect there and to get its first answer.
    "manual", addresses: set them, and answer with the moment.
    "failed": answer with how many calls have failed.
    """
    armed, failed = False, 0
    manual = discovery.Manual("bench")
    manual.set(places)

    def told(who: bytes | None, began: float, when: float) -> None:
        nonlocal armed, failed
        failed += who is None
        if armed and who == NEW:
            armed = False
            pipe.send({**trace.stages(), BEGAN: began, ANSWERED: when} if trace else when)

    async def connect(address: str) -> None:
        began = time.monotonic()
        # With connections of its own: gRPC shares them among channels with the same options.
        async with grpc.aio.insecure_channel(f"ipv4:{address}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            await method(channel)(b"x", timeout=20)
            pipe.send((time.monotonic() - began) * 1000)

    connecting: set[asyncio.Task[None]] = set()

    def message() -> None:
        nonlocal armed
        what, *given = pipe.recv()
        if what == "arm":
            armed = True
            if trace:
                trace.begin()
        elif what == "connect":
            connecting.add(task := asyncio.create_task(connect(*given)))
            task.add_done_callback(connecting.discard)
        elif what == "manual":
            moment = time.monotonic()
            manual.set(*given)
            pipe.send(moment)
        else:
            pipe.send(failed)

    async def main() -> None:
        async with discovery.aio.insecure_channel(target, config=config) as channel:
            await method(channel)(b"x", timeout=60, wait_for_ready=True)
            async with traffic(method(channel), RATE, told):
                pipe.send("up")
                asyncio.get_running_loop().add_reader(pipe.fileno(), message)
                await asyncio.Event().wait()

    asyncio.run(main())


def traced(pipe: Connection, target: str, config: discovery.Config, new: str, *places: str) -> None:
    """The same with a trace. `new`: the address of NEW."""
    busy(pipe, target, config, *places, trace=Trace(new))
