"""What an update costs a client: CPU of its process, from each registry, by the size of the set."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..peers import servers
from ..report import Row, fewer, row
from .clients import Client
from .writers import Manual, Registry, places_of

UPDATES, PAUSE = 60, 0.15

GOALS = {
    "etcd": {3: (1.0, 0.5), 100: (1.5, 1.1), 1000: (2.5, 6.7)},
    "kubernetes": {3: (1.0, 0.7), 100: (1.7, 1.7), 1000: (6.0, 7.7)},
}
"""Endpoints -> milliseconds of CPU: the goal, and what Go takes (etcd's naming resolver, kuberesolver; measured on 2 cores)."""

SIZES = (3, 100, 1000)

OF_MANUAL = (*SIZES, 5000)
"""Without a registry there is room for more."""


def measure(registry: Registry, quick: bool) -> Iterator[Row]:
    """The whole client, and where there is a registry its source alone."""
    for size in SIZES[:2] if quick else OF_MANUAL if isinstance(registry, Manual) else SIZES:
        yield from _cost(registry, size, "idle", fewer(UPDATES, quick))
        if not isinstance(registry, Manual):
            yield from _cost(registry, size, "source", fewer(UPDATES, quick))


def _cost(registry: Registry, size: int, role: str, updates: int) -> Iterator[Row]:
    """One endpoint is swapped, again and again; what the client costs when idle is subtracted."""
    with servers(1) as [port]:
        places = places_of(registry, size + updates, port)
        registry.fill(places[:size])
        given = places[:size] if isinstance(registry, Manual) else []
        with Client(role, registry.target, registry.config, *given) as client:
            if isinstance(registry, Manual):
                registry.client = client
            time.sleep(1 + size / 500)  # until every connection stands; nothing tells
            before = client.cpu()
            time.sleep(2)
            idle, costs = (client.cpu() - before) / 2 * PAUSE, []
            for number in range(updates):
                before = client.cpu()
                registry.put(number % size, places[size + number])
                time.sleep(PAUSE)
                costs.append(client.cpu() - before - idle)
            memory = int(Path(f"/proc/{client.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    what = f"{registry.name}: CPU per update, {size:,} endpoints"
    if role == "source":
        yield row(f"{what}, source alone", "ms", costs)
    else:
        goal, go = GOALS.get(registry.name, {}).get(size, (None, None))
        yield row(f"{what}{f' (Go: {go:g})' if go else ''}", "ms", costs, goal)
        yield row(f"{registry.name}: memory, {size:,} endpoints", "MB", [memory])
