"""What happens to the machine: its network, its descriptors, its disk, its clock."""

import asyncio
import contextlib
import dataclasses
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from discovery import Config
from discovery.config import Remember
from lab.load import Options
from lab.load_generator import LoadGenerator

from .catalog import LIBFAKETIME, Row, fault
from .harness import Harness
from .servers import EJECTING, LATE


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
        """Packets are lost silently, both ways."""
        self.inside("ip", "link", "set", self._far, "down")

    def mend(self) -> None:
        self.inside("ip", "link", "set", self._far, "up")

    def close(self) -> None:
        # The pair of interfaces first: with the namespace alone it would go some time later, and its name is used again.
        _run("ip", "link", "del", self._near)
        _run("ip", "netns", "del", self.name)


async def _cut(harness: Harness, options: Options | None = None) -> Row:
    namespace = _Namespace()
    harness.at_end(namespace.close)
    others = await harness.servers(2)
    [far] = harness.placed("127.0.0.1")
    far.address, far.name, far.through = namespace.address, "far", ("ip", "netns", "exec", namespace.name)
    await far.start()
    harness.manual(far.authority, *(server.authority for server in others))
    await harness.call(options=options)
    await harness.served_by("a", "b", "far")
    harness.mark()
    namespace.cut()
    await harness.calm()
    row = harness.row({result.code for result in harness.failed()} <= LATE)
    namespace.mend()
    repaired = time.monotonic()
    await harness.served_by("far")
    return dataclasses.replace(row, note=f"called again {time.monotonic() - repaired:.1f} s after the network was repaired")


@fault("network cut between the client and one of three servers", "root")
async def partitioned(harness: Harness) -> Row:
    """Only calls that were sent to it before it was ejected fail, at their deadline; it serves again once it can be reached."""
    return await _cut(harness, EJECTING)


@fault("network cut between the client and one of three servers, outlier detection off", "root")
async def partitioned_without(harness: Harness) -> Row:
    """Only keepalive ejects it."""
    return await _cut(harness)


@fault("client out of file descriptors", quick=True)
async def no_descriptors(harness: Harness) -> Row:
    """No call fails on the connections there are; a new server is called once there are descriptors again."""
    first, second, third, fourth = await harness.servers(4)
    listing = harness.manual(first.authority, second.authority, third.authority)
    await harness.call()
    await harness.served_by("a", "b", "c")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    harness.at_end(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    harness.mark()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # not one more
    listing.set([first.authority, second.authority, fourth.authority])
    third.kill()
    await asyncio.sleep(3.0)
    harness.keep_status()
    called = {result.server for result in harness.since()}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    repaired = time.monotonic()
    await harness.served_by("d")
    harness.recovered_since(repaired)
    return harness.row(not harness.failed() and "d" not in called, "over counts from when there were descriptors again")


@fault("disk full under the last known good file", "root", quick=True)
async def disk_full(harness: Harness) -> Row:
    """No call fails, the file of before stays whole, one line is logged; once there is room the set is kept again."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    _run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder.name)
    harness.at_end(lambda: _run("umount", folder.name))
    place = Path(folder.name)

    def names() -> list[str]:
        return sorted(path.name for path in place.iterdir())

    first, second, third = await harness.servers(3)
    listing = harness.manual(first.authority, second.authority)
    await harness.call(options=Options(config=Config(remember=Remember(folder.name))))
    # Under its last name: it is written under another, and moved.
    await harness.until(lambda: [Path(name).suffix for name in names()] == [".json"], "a file")
    kept = place / names()[0]
    before = kept.read_text()
    harness.mark()
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    listing.set([first.authority, second.authority, third.authority])
    await harness.served_by("c")
    await harness.until(lambda: bool(harness.logged()), "a line in the log")
    whole = kept.read_text() == before and names() == sorted(["filler", kept.name])
    harness.keep_status()
    row = harness.row(not harness.failed() and whole and len(harness.logged()) == 1)
    (place / "filler").unlink()
    listing.set([second.authority, third.authority])
    await harness.until(lambda: kept.read_text() != before, "a new file")
    return row


@fault("wall clock stepped by an hour, forwards and back", "libfaketime")
async def clock_stepped(harness: Harness) -> Row:
    """No call fails, at the client and at the servers: nothing counts seconds by the wall clock."""
    folder = tempfile.TemporaryDirectory()
    harness.at_end(folder.cleanup)
    step = Path(folder.name) / "step"
    step.write_text("+0\n")
    faked = {
        "LD_PRELOAD": LIBFAKETIME, "FAKETIME_TIMESTAMP_FILE": str(step), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    servers = await harness.servers(2, **faked)
    target = "static:///" + ",".join(server.authority for server in servers)
    client = LoadGenerator(harness.project, target, 100, **faked)
    harness.at_end(client.close)

    async def lines(count: int) -> None:
        wanted = len(client.seconds()) + count
        await harness.until(lambda: len(client.seconds()) >= wanted, "lines of the client's")

    await lines(2)
    before = len(client.seconds())
    for shift in ("+3600", "-3600", "+0"):
        step.write_text(f"{shift}\n")
        await lines(4)
    served = sum((Counter(line["served"]) for line in client.seconds()[before:]), Counter[str]())
    errors = sum((Counter(line["errors"]) for line in client.seconds()[before:]), Counter[str]())
    clocks = {line["time"][:13] for line in client.lines()}
    note = f"the client's log shows {len(clocks)} hours" + (f"; {dict(errors)}" if errors else "")
    row = Row(
        "", "", not errors and len(served) == 2 and len(clocks) == 3, served.total() + errors.total(), errors.total(), None, "not asked",
        "nothing", note,
    )  # fmt: skip
    return dataclasses.replace(row, fault=harness.fault.name, promise=harness.fault.promise)
