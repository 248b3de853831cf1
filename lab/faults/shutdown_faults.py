"""SIGTERM at the wrong moment."""

import asyncio
import os
import signal
import sys
import time

import grpc.aio

from lab.demo.pair import SERVER_MODULE

from .catalogue import Row, fault
from .harness import LIMIT, Trial

STATUS = 128 + signal.SIGTERM
"""Of a server that SIGTERM ended before it had begun."""


async def _while_starting(trial: Trial, *through: str) -> Row:
    """SIGTERM at moments from the first handler's on, up to after the server serves."""
    place = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", "SERVER__DRAIN__WAIT": "0s", "LOG__LEVEL": "INFO"}
    statuses: list[int] = []
    handled: list[float] = []
    said = ""
    took = 0.0
    for part in range(-1, 10):
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *through, sys.executable, "-m", SERVER_MODULE, env={**os.environ, **place, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            server = await _server_of(trial, process.pid, child=bool(through))
            await trial.until(lambda server=server: _handles_sigterm(server), "a handler")  # type: ignore[misc]
            handled.append(time.monotonic() - began)
            if part < 0:  # how long a start takes
                await process.stdout.readuntil(b"serving as")
                took = time.monotonic() - began
            await asyncio.sleep(max(0.0, took - handled[-1]) * part / 8)
            os.kill(server, signal.SIGTERM)
            async with asyncio.timeout(LIMIT):
                said += (await process.stdout.read()).decode()
                statuses.append(await process.wait())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    drained = statuses.count(0)
    note = (
        f"a start took {took:.1f} s, and {max(handled):.2f} s at the most passed without a handler; of {len(statuses)} signals after that {drained} led to a "
        "drain, the others to an end at once"
    )
    held = "Traceback" not in said and set(statuses) == {0, STATUS}
    return Row(trial.fault.name, trial.fault.promise, held, status="not asked", log="nothing", note=note)


async def _server_of(trial: Trial, process: int, *, child: bool) -> int:
    if not child:
        return process
    children = f"/proc/{process}/task/{process}/children"

    def born() -> list[str]:
        with open(children) as file:
            return file.read().split()

    await trial.until(lambda: bool(born()), "a child")
    return int(born()[0])


def _handles_sigterm(process: int) -> bool:
    with open(f"/proc/{process}/status") as file:
        [caught] = [line.split()[1] for line in file if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@fault("SIGTERM during the server's start")
async def during_start(trial: Trial) -> Row:
    """It ends, at whatever moment it comes, without a traceback."""
    return await _while_starting(trial)


@fault("SIGTERM during the server's start, as a container's first process", "root", quick=True)
async def during_first_start(trial: Trial) -> Row:
    """It ends, and does not have to be killed: the kernel drops signals to such a process that nobody handles."""
    return await _while_starting(trial, "unshare", "--pid", "--fork", "--kill-child")


@fault("SIGTERM during a long stream", quick=True)
async def during_stream(trial: Trial) -> Row:
    """No unary call fails; the stream goes on through the drain and ends with the grace, by a status that says so."""
    first, second = await trial.servers(2, SERVER__DRAIN__WAIT="1s", SERVER__DRAIN__GRACE="2s")
    trial.listed(first.authority, second.authority)
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
    trial.listed(first.authority, second.authority)
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
