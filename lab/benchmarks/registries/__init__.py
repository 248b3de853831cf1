"""Discovery from real registries: how soon a change serves, what it costs the client, and what the registry's outage does.

Every client is a process of its own, so that its CPU and memory are its own; this process writes. The Kubernetes API takes no
loopback addresses: slices hold 198.18.0.0/15 (RFC 2544), and clients here read it as 127.18, one `bytes.replace` per event.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import discovery
from discovery import testing
from discovery.target import parse
from discovery.testing import EtcdServer

from ..peers import servers
from ..report import Row, row
from .clients import RATE, Client
from .writers import Etcd, Kubernetes, Manual, Registry, namespace

SAMPLES, UPDATES, PAUSE = 100, 60, 0.15
OUTAGE = float(os.environ.get("BENCH_OUTAGE", "60"))  # seconds
GO = {3: 0.6, 100: 1.7, 1000: 6.2}
"""Endpoints -> milliseconds of CPU that Go takes for an update."""


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
        server = stack.enter_context(testing.etcd()) if shutil.which("etcd") else None
        here = os.environ.get("KUBECONFIG") and shutil.which("kubectl")
        kubernetes = Kubernetes(stack.enter_context(namespace())) if here else None
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
