"""What happens to the machine: its network, its descriptors, its disk, its clock."""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.processes import Process

from .catalogue import LIBFAKETIME, Row, fault
from .harness import Trial
from .servers import OFF


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class _Namespace:
    """A network namespace of its own, one hop away: `address` is inside."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name, self._near, self._far = f"faults-{number}", f"flt{number}a", f"flt{number}b"
        self.address, near = f"10.231.{number}.2", f"10.231.{number}.1"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
        _run("ip", "addr", "add", f"{near}/30", "dev", self._near)
        _run("ip", "link", "set", self._near, "up")
        self.inside("ip", "addr", "add", f"{self.address}/30", "dev", self._far)
        self.mend()

    def inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def cut(self) -> None:
        """Packets are lost without a word, both ways."""
        self.inside("ip", "link", "set", self._far, "down")

    def mend(self) -> None:
        self.inside("ip", "link", "set", self._far, "up")

    def close(self) -> None:
        _run("ip", "netns", "del", self.name)


async def _cut(trial: Trial, **client: Any) -> Row:
    namespace = _Namespace()
    trial.later(namespace.close)
    others = await trial.servers(2)
    [far] = trial.placed("127.0.0.1")
    far.address, far.name, far.through = namespace.address, "far", ("ip", "netns", "exec", namespace.name)
    await far.start()
    trial.manual(far.authority, *(server.authority for server in others))
    await trial.call(**client)
    await trial.served_by("a", "b", "far")
    trial.mark()
    namespace.cut()
    await trial.calm()
    row = trial.row({result.code for result in trial.failed()} <= {"DEADLINE_EXCEEDED"})
    namespace.mend()
    mended = time.monotonic()
    await trial.served_by("far")
    return dataclasses.replace(row, note=f"called again {time.monotonic() - mended:.1f} s after the network was mended")


@fault("network cut between the client and one of three servers", "root")
async def partitioned(trial: Trial) -> Row:
    """Only calls that were sent to it before it was taken out fail, by their deadline; it serves again once it is reached."""
    return await _cut(trial)


@fault("network cut between the client and one of three servers, outlier detection off", "root")
async def partitioned_without(trial: Trial) -> Row:
    """Keepalive alone takes it out."""
    return await _cut(trial, **OFF)


@fault("client out of file descriptors", quick=True)
async def no_descriptors(trial: Trial) -> Row:
    """No call fails on the connections there are; a new server is called once there are descriptors again."""
    first, second, third, fourth = await trial.servers(4)
    listing = trial.manual(first.authority, second.authority, third.authority)
    await trial.call()
    await trial.served_by("a", "b", "c")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    trial.later(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    trial.mark()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # not one more
    listing.set([first.authority, second.authority, fourth.authority])
    third.kill()
    await asyncio.sleep(3.0)
    trial.look()
    called = {result.server for result in trial.since()}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    mended = time.monotonic()
    await trial.served_by("d")
    trial.recovered_since(mended)
    return trial.row(not trial.failed() and "d" not in called, "over counts from when there were descriptors again")


@fault("disk full under the last known good file", "root", quick=True)
async def disk_full(trial: Trial) -> Row:
    """No call fails, the file of before stays whole, one line is logged; once there is room the set is kept again."""
    folder = tempfile.TemporaryDirectory()
    trial.later(folder.cleanup)
    _run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder.name)
    trial.later(lambda: _run("umount", folder.name))
    place = Path(folder.name)

    def names() -> list[str]:
        return sorted(path.name for path in place.iterdir())

    first, second, third = await trial.servers(3)
    listing = trial.manual(first.authority, second.authority)
    await trial.call(found={"remember": folder.name})
    # Under its last name: it is written under another, and moved.
    await trial.until(lambda: [Path(name).suffix for name in names()] == [".json"], "a file")
    kept = place / names()[0]
    before = kept.read_text()
    trial.mark()
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    listing.set([first.authority, second.authority, third.authority])
    await trial.served_by("c")
    await trial.until(lambda: bool(trial.logged()), "a line in the log")
    whole = kept.read_text() == before and names() == sorted(["filler", kept.name])
    trial.look()
    row = trial.row(not trial.failed() and whole and len(trial.logged()) == 1)
    (place / "filler").unlink()
    listing.set([second.authority, third.authority])
    await trial.until(lambda: kept.read_text() != before, "a new file")
    return row


@fault("wall clock stepped by an hour, forwards and back", "libfaketime")
async def clock_stepped(trial: Trial) -> Row:
    """No call fails, at the client and at the servers: nothing counts seconds by the wall clock."""
    folder = tempfile.TemporaryDirectory()
    trial.later(folder.cleanup)
    step = Path(folder.name) / "step"
    step.write_text("+0\n")
    faked = {
        "LD_PRELOAD": LIBFAKETIME, "FAKETIME_TIMESTAMP_FILE": str(step), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    servers = await trial.servers(2, **faked)
    client = Process(
        "client", CLIENT__TARGET="static:///" + ",".join(server.authority for server in servers), CLIENT__RATE="100",
        CLIENT__HEALTH_HOST="127.0.0.1", CLIENT__HEALTH_PORT="0", LOG__FORMAT="json", **faked,
    )  # fmt: skip
    trial.later(client.close)

    def seen() -> list[dict[str, dict[str, int]]]:
        return [line for line in map(json.loads, client.lines) if "served" in line]

    async def lines(count: int) -> None:
        wanted = len(seen()) + count
        await trial.until(lambda: len(seen()) >= wanted, "lines of the client's")

    await lines(2)
    before = len(seen())
    for shift in ("+3600", "-3600", "+0"):
        step.write_text(f"{shift}\n")
        await lines(4)
    served = sum((Counter(line["served"]) for line in seen()[before:]), Counter[str]())
    errors = sum((Counter(line["errors"]) for line in seen()[before:]), Counter[str]())
    clocks = {json.loads(line)["time"][:13] for line in client.lines}
    note = f"the client's log shows {len(clocks)} hours" + (f"; {dict(errors)}" if errors else "")
    row = Row(
        "", "", not errors and len(served) == 2 and len(clocks) == 3, served.total() + errors.total(), errors.total(), None, "not asked",
        "nothing", note,
    )  # fmt: skip
    return dataclasses.replace(row, fault=trial.fault.name, promise=trial.fault.promise)
