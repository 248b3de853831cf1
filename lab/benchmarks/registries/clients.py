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
from .busy import busy as _busy  # noqa: F401  a role
from .busy import traced as _traced  # noqa: F401
from .stages import VARIABLES


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
        if role[0] == "traced":
            environment |= VARIABLES
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
    manual = discovery.Manual("bench")
    manual.set(places)
    with discovery.insecure_channel(target, config=config) as channel:
        method(channel)(b"x", timeout=60)
        pipe.send("up")
        while True:
            _, changed = pipe.recv()
            manual.set(changed)
            pipe.send(time.monotonic())


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
