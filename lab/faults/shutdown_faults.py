"""SIGTERM at the wrong moment."""

import asyncio
import os
import signal
import time
from typing import Any

import grpc.aio

from lab.load import served_by
from lab.project import empty_folder

from .catalog import NotTriedError, Row, fault
from .harness import LIMIT, Harness
from .methods import methods

STATUS = 128 + signal.SIGTERM
"""Of a server that SIGTERM ended before it had begun."""


async def _while_starting(harness: Harness, *through: str) -> Row:
    """SIGTERM at moments from the first handler's on, up to after the server serves."""
    place = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", "SERVER__DRAIN__WAIT": "0s", "LOG__LEVEL": "INFO"}
    statuses: list[int] = []
    handled: list[float] = []
    said = ""
    took = 0.0
    for part in range(-1, 10):
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *through, *harness.project.command("server"), env=harness.project.environment(place), cwd=empty_folder(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            server = await _server_of(harness, process.pid, child=bool(through))
            await harness.until(lambda server=server: _handles_sigterm(server), "a handler")  # type: ignore[misc]
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
    return Row(harness.fault.name, harness.fault.promise, held, status="not asked", log="nothing", note=note)


async def _server_of(harness: Harness, process: int, *, child: bool) -> int:
    if not child:
        return process
    children = f"/proc/{process}/task/{process}/children"

    def born() -> list[str]:
        with open(children) as file:
            return file.read().split()

    await harness.until(lambda: bool(born()), "a child")
    return int(born()[0])


def _handles_sigterm(process: int) -> bool:
    with open(f"/proc/{process}/status") as file:
        [caught] = [line.split()[1] for line in file if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@fault("SIGTERM during the server's start")
async def during_start(harness: Harness) -> Row:
    """It ends, at whatever moment it comes, without a traceback."""
    return await _while_starting(harness)


@fault("SIGTERM during the server's start, as a container's first process", "root", quick=True)
async def during_first_start(harness: Harness) -> Row:
    """It ends, and does not have to be killed: the kernel drops signals that such a process does not handle."""
    return await _while_starting(harness, "unshare", "--pid", "--fork", "--kill-child")


@fault("SIGTERM during a long stream", quick=True)
async def during_stream(harness: Harness) -> Row:
    """No unary call fails; the stream goes on through the drain's wait, and then ends by a status that says so."""
    first, second = await harness.servers(2, SERVER__DRAIN__WAIT="1s", SERVER__DRAIN__GRACE="2s")
    harness.listed(first.authority, second.authority)
    await harness.call()
    await harness.served_by("a", "b")
    assert harness.client is not None
    method = (await methods(harness.project, first.authority)).stream
    stream: Any = harness.client.channel.unary_stream(method)
    streams: dict[str, tuple[float, str]] = {}

    async def follow() -> None:
        call = stream(b"", timeout=60)
        server, code = "", "an end without an error"
        try:
            server = served_by(await call.initial_metadata())
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        streams[server] = time.monotonic(), code

    following = [asyncio.create_task(follow()) for _ in range(4)]
    await asyncio.sleep(0.5)
    if streams:
        raise NotTriedError(f"{method} ended at once; a stream that goes on is needed")
    harness.mark()
    first.drain()
    await first.ended()
    await harness.until(lambda: "a" in streams, "the end of its stream")
    await harness.calm()
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    ended, code = streams["a"]
    went_on = ended - harness.marked
    held = not harness.failed() and went_on > 0.9 and code in ("UNAVAILABLE", "CANCELLED") and set(streams) == {"a"}
    return harness.row(held, f"the stream went on for {went_on:.1f} s of 1 s wait and 2 s grace, then {code}")


@fault("SIGTERM twice", quick=True)
async def twice(harness: Harness) -> Row:
    """The second ends it at once; no call fails, calls that it cuts are retried."""
    first, second = await harness.servers(2, SERVER__DRAIN__WAIT="20s", SERVER__DRAIN__GRACE="20s")
    harness.listed(first.authority, second.authority)
    await harness.call()
    await harness.served_by("a", "b")
    harness.mark()
    first.drain()
    await asyncio.sleep(0.5)
    again = time.monotonic()
    first.drain()
    await first.ended()
    ended = time.monotonic() - again
    await harness.calm()
    return harness.row(
        not harness.failed() and ended < 15, f"it ended {ended:.1f} s after the second, of 40 s that a drain may take"
    )
