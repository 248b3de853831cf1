"""The processes whose cost or answers are measured: each plays one role, at the other end of a pipe."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import discovery
from discovery.snapshot import parse_authority
from discovery.sources.source import open_source
from discovery.target import parse

from ..peers import method
from ..zones import traffic

RATE = 1000
"""Calls a second of a busy client."""


def slices() -> Any:
    """The API for EndpointSlices. Imported late: the memory of other clients must not hold the library."""
    from kubernetes import client, config

    untyped: Any = config
    return client.DiscoveryV1Api(untyped.new_client_from_config())


class Client:
    """A process of this file in the role named, at the other end of `pipe`; up when the block begins, ended after it."""

    def __init__(self, *role: Any) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        environment = {**os.environ, "PYTHONPATH": str(Path(discovery.__file__).parents[1])}
        command = [sys.executable, "-B", "-c", f"from {__name__} import run; run({theirs.fileno()})"]
        self.process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        self.pipe.send(role)

    def __enter__(self) -> "Client":
        with contextlib.ExitStack() as stack:
            stack.push(self.__exit__)
            self.answer()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    def answer(self) -> Any:
        if not self.pipe.poll(90):
            raise RuntimeError("a client of the measurement has not seen what it waits for within 90 s")
        return self.pipe.recv()

    def cpu(self) -> float:
        """Milliseconds of its `time.process_time()`, read from here so that it is not disturbed (clock_getcpuclockid)."""
        return time.clock_gettime((~self.process.pid << 3) | 2) * 1000


# ---- what a client does: roles ----


def _source(pipe: Connection, target: str, config: discovery.Config) -> None:
    """A source alone, without resolver and control plane."""
    for _ in open_source(parse(target), config).watch():
        pipe.send("seen")


def _idle(pipe: Connection, target: str, config: discovery.Config, *places: str) -> None:
    """A channel without traffic. `places` is for manual, as are the changes that the pipe brings."""
    listed = [discovery.Endpoint(*parse_authority(place)) for place in places]
    manual = discovery.Manual("bench")
    manual.set(listed)
    with discovery.insecure_channel(target, config=config) as channel:
        method(channel)(b"x", timeout=60)
        pipe.send("up")
        while change := pipe.recv():
            listed[change[0]] = discovery.Endpoint(*parse_authority(change[1]))
            manual.set(listed)


def _busy(pipe: Connection, target: str, config: discovery.Config) -> None:
    """Calls at RATE. "arm" asks for the moment of the next answer of server 3, anything else for how many calls failed."""
    armed, failed = False, 0

    def told(who: bytes | None, when: float) -> None:
        nonlocal armed, failed
        failed += who is None
        if armed and who == b"3":
            armed = False
            pipe.send(when)

    def message() -> None:
        nonlocal armed
        if pipe.recv() == "arm":
            armed = True
        else:
            pipe.send(failed)

    async def main() -> None:
        async with discovery.aio.insecure_channel(target, config=config) as channel:
            await method(channel)(b"x", timeout=60)
            async with traffic(method(channel), RATE, told):
                pipe.send("up")
                asyncio.get_running_loop().add_reader(pipe.fileno(), message)
                await asyncio.Event().wait()

    asyncio.run(main())


def _witness(pipe: Connection, namespace: str) -> None:
    """The independent watcher: the moment of each event, the slice's name, and how many endpoints it has now."""
    response = slices().list_namespaced_endpoint_slice(namespace, watch=True, _preload_content=False)
    pipe.send("up")
    rest = b""
    for chunk in response.stream(2**16, decode_content=False):
        now = time.monotonic()
        *lines, rest = (rest + chunk).split(b"\n")
        for content in (json.loads(line)["object"] for line in lines):
            pipe.send((now, content["metadata"]["name"], len(content.get("endpoints") or ())))


def _proxy(pipe: Connection, server: str, port: int) -> None:
    """Passes everything that comes to `port` on to a server, until it is killed."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*parse_authority(server))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    async def main() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", port)
        pipe.send("up")
        await listening.serve_forever()

    asyncio.run(main())


def run(descriptor: int) -> None:
    """The process's whole life."""
    pipe = Connection(descriptor)
    logging.disable(logging.WARNING)  # an outage is told at length
    role, target, *more = pipe.recv()
    if target.startswith("kubernetes"):
        from discovery.sources.kubernetes import endpoint_slices, source

        as_loopback: Any = SimpleNamespace(loads=lambda text: json.loads(text.replace(b'"198.18.', b'"127.18.')))
        vars(source)["json"] = vars(endpoint_slices)["json"] = as_loopback
    globals()[f"_{role}"](pipe, target, *more)
