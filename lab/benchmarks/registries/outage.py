"""What a registry's outage does to a client: no failed call, and soon up to date when it is back."""

import contextlib
import json
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import discovery
from discovery.target import parse
from discovery.testing import EtcdServer

from ..peers import servers
from ..report import Row, row
from .busy import RATE
from .clients import Client
from .writers import Etcd, Kubernetes, places_of


def _outage(
    target: str, config: discovery.Config, seconds: float, go: Callable[[], object], back: Callable[[], float]
) -> Iterator[Row]:
    """`go` takes the registry away, `back` brings it back with a change and returns the moment of its return."""
    with Client("busy", target, config) as client:
        time.sleep(2)
        go()
        time.sleep(seconds)
        client.pipe.send(("arm",))
        moment = back()
        took = client.answer() - moment
        time.sleep(2)
        client.pipe.send(("failed",))
        what = f"{parse(target).scheme} away for {seconds:g} s under {RATE:,} calls/s"
        yield row(f"{what}: failed calls", "calls", [client.answer()], 0)
        yield row(f"{what}: from its return to the first answer of a new server", "s", [took], 5)


def etcd_outage(server: EtcdServer, seconds: float) -> Iterator[Row]:
    registry = Etcd(server, "etcd:///outage")
    logging.disable(logging.WARNING)  # the registrars tell it at length
    with servers(4) as ports, contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        places = places_of(registry, 4, *ports)
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

        yield from _outage(registry.target, registry.config, seconds, server.stop, back)


def kubernetes_outage(registry: Kubernetes, folder: Path, seconds: float) -> Iterator[Row]:
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
        places = places_of(registry, 4, *ports)
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

        yield from _outage(registry.target, config, seconds, go, back)
