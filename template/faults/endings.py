"""SIGTERM at the wrong moment."""

import asyncio
import signal
import time

import grpc
import grpc.aio

from tests.processes import Process

from .catalogue import Row, fault
from .trial import Trial


@fault("SIGTERM during the server's start", quick=True)
async def during_start(trial: Trial) -> Row:
    """It ends at whatever moment it comes, without a traceback. (As a container's first process it has no handler until its
    imports are done, and the kernel drops the signal: then the pod's grace period ends it.)"""
    statuses: list[int] = []
    broken: list[str] = []
    began = time.monotonic()
    running = Process("server", SERVER__HOST="127.0.0.1", SERVER__PORT="0", SERVER__DRAIN__WAIT="0s")
    await asyncio.to_thread(running.wait_for, "serving as")
    took = time.monotonic() - began
    running.close()
    for part in range(10):
        process = Process("server", SERVER__HOST="127.0.0.1", SERVER__PORT="0", SERVER__DRAIN__WAIT="0s")
        try:
            await asyncio.sleep(took * part / 8)
            process.send(signal.SIGTERM)
            statuses.append(await asyncio.to_thread(process.ended))
            broken += [line for line in process.lines if "Traceback" in line]
        finally:
            process.close()
    died = statuses.count(-signal.SIGTERM)
    held = not broken and set(statuses) <= {0, -signal.SIGTERM}
    note = f"of {len(statuses)} at moments over {took:.1f} s, {died} ended by the signal before its handler was there, the others drained"
    return Row(trial.fault.name, trial.fault.promise, held, log=broken[0] if broken else "nothing", status="not asked", note=note)


@fault("SIGTERM during a long stream", quick=True)
async def during_stream(trial: Trial) -> Row:
    """No unary call fails; the stream goes on through the drain and ends with the grace, by a status that says so."""
    first, second = await trial.servers(2, SERVER__DRAIN__WAIT="1s", SERVER__DRAIN__GRACE="2s")
    trial.manual(first.authority, second.authority)
    await trial.call()
    await trial.served_by("a", "b")
    assert trial.greeter is not None
    streams: dict[str, tuple[float, str]] = {}

    async def follow() -> None:
        server, last, code = "", 0.0, "ended without an error"
        try:
            assert trial.greeter is not None
            async for greeting in trial.greeter.watch("x", interval=0.05):
                server, last = greeting.served_by, time.monotonic()
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        streams[server] = last, code

    following = [asyncio.create_task(follow()) for _ in range(4)]
    await asyncio.sleep(0.5)
    trial.mark()
    first.drain()
    await first.ended()
    await trial.until(lambda: "a" in streams, "the end of its stream")
    await trial.calm()
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    last, code = streams["a"]
    went_on = last - trial.marked
    held = not trial.failed() and went_on > 2.5 and code in ("UNAVAILABLE", "CANCELLED") and set(streams) == {"a"}
    return trial.row(held, f"the stream went on for {went_on:.1f} s of 1 s wait and 2 s grace, then {code}")


@fault("SIGTERM twice", quick=True)
async def twice(trial: Trial) -> Row:
    """The second ends it at once; no call fails, what it cuts is made again."""
    first, second = await trial.servers(2, SERVER__DRAIN__WAIT="20s", SERVER__DRAIN__GRACE="20s")
    trial.manual(first.authority, second.authority)
    await trial.call()
    await trial.served_by("a", "b")
    trial.mark()
    first.drain()
    await asyncio.sleep(0.5)
    again = time.monotonic()
    first.drain()
    await first.ended()
    ended = time.monotonic() - again
    await trial.calm()
    return trial.row(not trial.failed() and ended < 15, f"it ended {ended:.1f} s after the second, of 40 s that a drain may take")
