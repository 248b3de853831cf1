"""Discovery from real registries: how soon a change serves, what it costs the client, and what the registry's outage does.

Every client is a process of its own, so that its CPU and memory are its own; this process writes. The Kubernetes API takes no
loopback addresses: slices hold 198.18.0.0/15 (RFC 2544), and clients here read it as 127.18, one `bytes.replace` per event.
"""

import asyncio
import contextlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import discovery
from discovery.etcd_client import EtcdClient
from discovery.snapshot import parse_authority
from discovery.source import open_source
from discovery.target import parse
from discovery.tests.etcd_server import EtcdServer

from .peers import method, servers
from .report import Row, row
from .zones import traffic

RATE, SAMPLES, UPDATES, PAUSE = 1000, 100, 60, 0.15
OUTAGE = float(os.environ.get("BENCH_OUTAGE", "60"))  # seconds
GO = {3: 0.6, 100: 1.7, 1000: 6.2}
"""Endpoints -> milliseconds of CPU that Go takes for an update."""


class Client:
    """A process of this file in the role named, at the other end of `pipe`; up when the block begins, ended after it."""

    def __init__(self, *role: Any) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        paths = [str(Path(__file__).parents[1]), str(Path(discovery.__file__).parents[1])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-B", "-m", __name__, str(theirs.fileno())]
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
    response = _slices().list_namespaced_endpoint_slice(namespace, watch=True, _preload_content=False)
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


def _run(pipe: Connection) -> None:
    logging.disable(logging.WARNING)  # an outage is told at length
    role, target, *more = pipe.recv()
    if target.startswith("kubernetes"):
        from discovery.sources import kubernetes

        as_loopback: Any = SimpleNamespace(loads=lambda text: json.loads(text.replace(b'"198.18.', b'"127.18.')))
        vars(kubernetes)["json"] = as_loopback
    globals()[f"_{role}"](pipe, target, *more)


# ---- registries, as their writer sees them: put(index, place) returns the moment that counts; no place takes it away ----


class Manual:
    """The peer: what an update costs without a registry. The client writes by itself, when it is told to."""

    name, target, config, host = "manual", "manual:///bench", discovery.Config(), "127.18"

    def __init__(self) -> None:
        self.client: Client | None = None

    def fill(self, places: Sequence[str]) -> None:
        """The client is born with them."""

    def put(self, index: int, place: str) -> float:
        if self.client:
            self.client.pipe.send((index, place))
        return time.monotonic()


class Etcd:
    """Keys as Go's package naming/endpoints writes them. What counts is the return of the put."""

    name, host = "etcd", "127.18"

    def __init__(self, server: EtcdServer, target: str) -> None:
        self.target = target
        self.config = discovery.Config(etcd=discovery.Etcd(endpoints=(server.address,)))
        self._client = EtcdClient(self.config.etcd, 0)
        self._leases: dict[int, int] = {}

    def fill(self, places: Sequence[str]) -> None:
        """Replaces what was there."""
        for index in list(self._leases):
            self.put(index, "")
        for index, place in enumerate(places):
            self.put(index, place)

    def put(self, index: int, place: str) -> float:
        if not place:
            self._client.revoke(self._leases.pop(index))
            return 0.0
        lease = self._leases[index] = self._leases.get(index) or self._client.grant(3600)
        value = json.dumps({"Op": 0, "Addr": place, "Metadata": None}).encode()
        self._client.put(f"{parse(self.target).name}/{index}".encode(), value, lease)
        return time.monotonic()


def _slices() -> Any:
    """The API for EndpointSlices. Imported late: the memory of other clients must not hold the library."""
    from kubernetes import client, config

    untyped: Any = config
    return client.DiscoveryV1Api(untyped.new_client_from_config())


class Kubernetes:
    """Slices of up to 100 endpoints. What counts is the moment when the witness, if there is one, sees the patched slice."""

    name, host, config = "kubernetes", "198.18", discovery.Config()
    witness: Client | None = None

    def __init__(self, namespace: str) -> None:
        self.namespace, self.target = namespace, f"kubernetes:///bench.{namespace}"
        self._slices = _slices()
        self._listed: list[str] = []

    def fill(self, places: Sequence[str]) -> None:
        """One slice for each port and hundred; replaces what was there."""
        self._slices.delete_collection_namespaced_endpoint_slice(self.namespace)
        self._listed = list(places)
        for index in {self._slice(index): index for index in range(len(places))}.values():
            labels = {"kubernetes.io/service-name": "bench"}
            port = int(places[index].partition(":")[2])
            content = {
                "metadata": {"name": self._slice(index), "labels": labels}, "addressType": "IPv4",
                "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}], "endpoints": self._endpoints(index),
            }  # fmt: skip
            self._slices.create_namespaced_endpoint_slice(self.namespace, content)

    def put(self, index: int, place: str) -> float:
        self._listed[index] = place or self._listed[index].replace(self.host, "gone")
        content = {"endpoints": self._endpoints(index)}
        self._slices.patch_namespaced_endpoint_slice(self._slice(index), self.namespace, content)
        while self.witness:
            moment, name, count = self.witness.answer()
            if (name, count) == (self._slice(index), len(content["endpoints"])):
                return float(moment)
        return time.monotonic()

    def _slice(self, index: int) -> str:
        return f"bench-{self._listed[index].partition(':')[2]}-{index // 100}"

    def _endpoints(self, index: int) -> list[object]:
        """What a controller would write of a slice's pods."""
        conditions = {"ready": True, "serving": True, "terminating": False}
        pod = {"kind": "Pod", "namespace": self.namespace, "uid": str(uuid.UUID(int=0))}
        return [
            {"addresses": [place.partition(":")[0]], "conditions": conditions, "nodeName": "node-1",
             "targetRef": {**pod, "name": f"bench-{number}"}}
            for number, place in enumerate(self._listed)
            if self._slice(number) == self._slice(index) and place.startswith(self.host)
        ]  # fmt: skip


Registry = Manual | Etcd | Kubernetes


@contextlib.contextmanager
def _etcd() -> Iterator[EtcdServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = EtcdServer(Path(folder, "data"))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)


# ---- measurements ----


def _places(registry: Registry, count: int, *ports: int) -> list[str]:
    """Loopback addresses; server n of the ports in turn."""
    return [f"{registry.host}.{n // 250 + 1}.{n % 250 + 1}:{ports[n % len(ports)]}" for n in range(count)]


def _first(registry: Etcd | Kubernetes, p50: float, p99: float) -> Iterator[Row]:
    """An endpoint comes and goes; each time the first answer of its server to a busy client."""
    took = []
    with servers(4) as ports:
        places = _places(registry, 4, *ports)
        registry.fill(places)
        registry.put(3, "")
        with Client("busy", registry.target, registry.config) as client:
            for _ in range(SAMPLES):
                time.sleep(2 * PAUSE)  # longer than coalescing
                client.pipe.send("arm")
                moment = registry.put(3, places[3])
                took.append((client.answer() - moment) * 1000)
                time.sleep(PAUSE)
                registry.put(3, "")
    what = f"{registry.name}: {'put' if registry.name == 'etcd' else 'seen by another watcher'} to first answer of the new server"
    yield row(f"{what}, {RATE:,} calls/s", "ms", took, p50)
    yield row(f"{what}, 99th percentile", "ms", [sorted(took)[math.ceil(len(took) * 0.99) - 1]], p99)


def _cost(registry: Registry, size: int, role: str) -> Iterator[Row]:
    """One endpoint is swapped, again and again; what the client costs when idle is subtracted."""
    with servers(1) as [port]:
        places = _places(registry, size + UPDATES, port)
        given = places[:size] if isinstance(registry, Manual) else []
        registry.fill(places[:size])
        with Client(role, registry.target, registry.config, *given) as client:
            if isinstance(registry, Manual):
                registry.client = client
            time.sleep(1 + size / 500)  # until every connection stands; nothing tells
            before = client.cpu()
            time.sleep(2)
            idle, costs = (client.cpu() - before) / 2 * PAUSE, []
            for number in range(UPDATES):
                before = client.cpu()
                registry.put(number % size, places[size + number])
                time.sleep(PAUSE)
                costs.append(client.cpu() - before - idle)
            pages = int(Path(f"/proc/{client.process.pid}/statm").read_text().split()[1])
    go = f" (Go: {GO[size]})" if role == "idle" and not given else ""
    alone = ", source alone" if role == "source" else ""
    yield row(f"{registry.name}: CPU per update, {size:,} endpoints{alone}{go}", "ms", costs, GO[size] if go else None)
    if role == "idle":
        yield row(f"{registry.name}: memory, {size:,} endpoints", "MB", [pages * os.sysconf("SC_PAGE_SIZE") / 1e6])


def _outage(target: str, config: discovery.Config, go: Callable[[], object], back: Callable[[], float]) -> Iterator[Row]:
    """`go` takes the registry away, `back` brings it back with a change and returns the moment of its return."""
    with Client("busy", target, config) as client:
        time.sleep(2)
        go()
        time.sleep(OUTAGE)
        client.pipe.send("arm")
        moment = back()
        took = client.answer() - moment
        time.sleep(2)
        client.pipe.send("failed")
        what = f"{parse(target).scheme} away for {OUTAGE:g} s under {RATE:,} calls/s"
        yield row(f"{what}: failed calls", "calls", [client.answer()], 0)
        yield row(f"{what}: from its return to the first answer of a new server", "s", [took], 5)


def _etcd_outage(server: EtcdServer) -> Iterator[Row]:
    registry = Etcd(server, "etcd:///outage")
    logging.disable(logging.WARNING)  # the registrars tell it at length
    with servers(4) as ports, contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        places = _places(registry, 4, *ports)
        for place in places[:3]:
            registrar = discovery.Registrar(registry.target, place, config=registry.config)
            registrar.start()
            stack.callback(registrar.close)
            registrar.wait_until_registered(20)

        def back() -> float:
            server.start()
            moment = time.monotonic()
            Etcd(server, registry.target).put(3, places[3])
            return moment

        yield from _outage(registry.target, registry.config, server.stop, back)


def _kubernetes_outage(registry: Kubernetes, folder: Path) -> Iterator[Row]:
    """The client's way to the API server is cut; the change is made while it is."""
    view = ["kubectl", "config", "view", "--raw", "--flatten", "--minify", "--output=json"]
    content = json.loads(subprocess.run(view, check=True, capture_output=True).stdout)
    [cluster] = (each["cluster"] for each in content["clusters"])
    server = urlsplit(cluster["server"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster |= {"server": f"https://127.0.0.1:{port}", "tls-server-name": server.hostname}
    (folder / "kubeconfig").write_text(json.dumps(content))
    config = discovery.Config(kubernetes=discovery.Kubernetes(kubeconfig=str(folder / "kubeconfig")))
    with servers(4) as ports, contextlib.ExitStack() as stack:
        places = _places(registry, 4, *ports)
        registry.fill(places)
        registry.put(3, "")

        def way() -> Client:
            return stack.enter_context(Client("proxy", f"{server.hostname}:{server.port or 443}", port))

        first = way()

        def go() -> None:
            first.process.kill()
            registry.put(3, places[3])

        def back() -> float:
            way()
            return time.monotonic()

        yield from _outage(registry.target, config, go, back)


def measure() -> Iterator[Row]:
    """Registries that are not here are left out."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_etcd()) if shutil.which("etcd") else None
        here = os.environ.get("KUBECONFIG") and shutil.which("kubectl")
        kubernetes = Kubernetes(stack.enter_context(_namespace())) if here else None
        registries: list[Registry] = [Manual()] if server or kubernetes else []
        if server:
            registries.append(etcd := Etcd(server, "etcd:///bench"))
            yield from _first(etcd, 3, 6)
        else:
            print("no figures for etcd: it is not on PATH", file=sys.stderr)
        if kubernetes:
            registries.append(kubernetes)
            with Client("witness", kubernetes.namespace) as kubernetes.witness:
                yield from _first(kubernetes, 6, 15)
            kubernetes.witness = None
        else:
            print("no figures for Kubernetes: KUBECONFIG is not set, or kubectl is not on PATH", file=sys.stderr)
        for registry in registries:
            for size in GO:
                yield from _cost(registry, size, "idle")
                if registry.name != "manual":
                    yield from _cost(registry, size, "source")
        if server:
            yield from _etcd_outage(server)
        if kubernetes:
            yield from _kubernetes_outage(kubernetes, Path(stack.enter_context(tempfile.TemporaryDirectory())))


if __name__ == "__main__":
    _run(Connection(int(sys.argv[1])))
