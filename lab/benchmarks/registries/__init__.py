"""Discovery from real registries: how soon a change serves, what it costs the client, and what the registry's outage does.

Every client is a process of its own, so that its CPU and memory are its own; this process writes. The Kubernetes API takes no
loopback addresses: slices hold 198.18.0.0/15 (RFC 2544), and clients here read it as 127.18, one `bytes.replace` per event.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from discovery import testing
from discovery.testing import EtcdServer

from ..report import Row
from . import changes, outage, update_cost
from .clients import Client
from .writers import Etcd, Kubernetes, Manual, namespace

OUTAGE = float(os.environ.get("BENCH_OUTAGE", "30"))
"""Seconds."""


@contextlib.contextmanager
def _etcd() -> Iterator[EtcdServer | None]:
    if shutil.which("etcd"):
        with testing.etcd() as server:
            yield server
    else:
        print("no figures for etcd: it is not on PATH", file=sys.stderr)
        yield None


@contextlib.contextmanager
def _kubernetes() -> Iterator[Kubernetes | None]:
    if os.environ.get("KUBECONFIG") and shutil.which("kubectl"):
        with namespace() as name:
            yield Kubernetes(name)
    else:
        print("no figures for Kubernetes: KUBECONFIG is not set, or kubectl is not on PATH", file=sys.stderr)
        yield None


def measure_changes(quick: bool) -> Iterator[Row]:
    """Registries that are not here are left out, here and below."""
    yield from changes.measure(Manual(), quick)
    with _etcd() as server:
        if server:
            yield from changes.measure(Etcd(server, "etcd:///bench"), quick)
    with _kubernetes() as kubernetes:
        if kubernetes:
            with Client("witness", kubernetes.namespace) as kubernetes.witness:
                yield from changes.measure(kubernetes, quick)


def measure_updates(quick: bool) -> Iterator[Row]:
    """`manual` is what an update costs without a registry."""
    yield from update_cost.measure(Manual(), quick)
    with _etcd() as server:
        if server:
            yield from update_cost.measure(Etcd(server, "etcd:///bench"), quick)
    with _kubernetes() as kubernetes:
        if kubernetes:
            yield from update_cost.measure(kubernetes, quick)


def measure_outages(quick: bool) -> Iterator[Row]:
    """Of BENCH_OUTAGE seconds."""
    seconds = min(OUTAGE, 3.0) if quick else OUTAGE
    with _etcd() as server:
        if server:
            yield from outage.etcd_outage(server, seconds)
    with _kubernetes() as kubernetes, tempfile.TemporaryDirectory() as folder:
        if kubernetes:
            yield from outage.kubernetes_outage(kubernetes, Path(folder), seconds)
