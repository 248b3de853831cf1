"""How soon a change serves: from the write to the first answer of the new server, to a client that calls a thousand times a second.

The peer, in turns with it in the same process: a bare gRPC channel that connects to the same server and makes one call.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator

from ..peers import servers
from ..report import Row, fewer, percentile, row
from .busy import RATE
from .clients import Client
from .stages import ACKNOWLEDGED, ANSWERED, ARRIVED, BEGAN, CONNECTING, PUBLISHED, READY, SENT, YIELDED
from .writers import Manual, Registry

SAMPLES, FRESH, TRACED, PAUSE = 100, 10, 40, 0.1

GOALS: dict[str, tuple[float | None, float | None]] = {"etcd": (None, 12.0), "kubernetes": (5.0, 10.0), "manual": (None, None)}
"""Milliseconds, 50th and 99th percentile."""

GO = {"etcd": (2.5, 5.3), "kubernetes": (3.0, 5.9)}
"""What grpc-go took with etcd's naming resolver and with kuberesolver, measured once on 2 cores; the same percentiles."""

FIRST = 2.0
"""Milliseconds by which the first change of a client may take longer than others."""

RATIO = 1.6
"""At most so many times what a bare channel takes to a server that is there."""

STAGES = (ARRIVED, YIELDED, PUBLISHED, SENT, CONNECTING, ACKNOWLEDGED, READY, BEGAN, ANSWERED)


def measure(registry: Registry, quick: bool) -> Iterator[Row]:
    """Needs a registry that nobody else writes to meanwhile."""
    written = {"etcd": "put", "kubernetes": "seen by another watcher", "manual": "set"}[registry.name]
    what = f"{registry.name}: {written} to first answer of the new server"
    p50, p99 = GOALS[registry.name]
    go50, go99 = (f" (Go: {figure:g})" for figure in GO[registry.name]) if registry.name in GO else ("", "")
    with servers(4) as ports:
        places = [f"{registry.host}.1.{number + 1}:{port}" for number, port in enumerate(ports)]
        reached = places[3].replace("198.18.", "127.18.")  # see clients.py
        registry.fill(places)
        registry.put(3, "")
        took, peer = [], []
        with _client(registry, "busy") as client:
            time.sleep(1)
            for _ in range(fewer(SAMPLES, quick)):
                took.append(_change(registry, client, places[3]))
                client.pipe.send(("connect", reached))
                peer.append(client.answer())
        yield row(f"{what}, {RATE:,} calls/s{go50}", "ms", took, p50)
        yield row(f"{what}, 99th percentile{go99}", "ms", [percentile(took, 99)], p99)
        yield row(f"{registry.name}: a bare channel's connect and first call in the same client, in turns", "ms", peer)
        yield row(f"{registry.name}: a bare channel's, 99th percentile", "ms", [percentile(peer, 99)])
        ratio = statistics.median(took) / statistics.median(peer)
        yield row(f"{what}, over the bare channel's", "ratio", [ratio], RATIO if registry.name == "etcd" else None)
        first, more = [], []
        for _ in range(fewer(FRESH, quick)):
            with _client(registry, "busy") as client:
                one, *others = [_change(registry, client, places[3]) for _ in range(4)]
                first.append(one)
                more.append(one - statistics.median(others))
        yield row(f"{what}, right after the client's first answer", "ms", first)
        yield row(f"{what}, right after its first answer: more than the next three", "ms", more, FIRST)
        yield from _stages(registry, what, places[3], reached, statistics.median(peer), quick)


def _stages(registry: Registry, what: str, place: str, reached: str, peer: float, quick: bool) -> Iterator[Row]:
    found: list[dict[str, float]] = []
    with _client(registry, "traced", reached) as client:
        time.sleep(1)
        for _ in range(fewer(TRACED, quick)):
            _change(registry, client, place, found)
    for stage in STAGES:
        if times := [each[stage] for each in found if stage in each]:
            yield row(f"{registry.name}: the same, traced, until {stage}", "ms", times)
    # Round robin over four servers: by arithmetic 2 ms at 1,000 calls/s, whoever finds the server. A bare channel does not wait.
    turns = [each[BEGAN] - each[READY] for each in found if READY in each]
    yield row(f"{registry.name}: the wait of the ready connection for its turn", "ms", turns)
    straight = [(each[ANSWERED] - each[BEGAN] + each[READY]) / peer for each in found if READY in each]
    yield row(
        f"{what}, traced, without that wait, over the bare channel's",
        "ratio",
        straight,
        RATIO if registry.name == "etcd" else None,
    )


@contextlib.contextmanager
def _client(registry: Registry, role: str, *more: str) -> Iterator[Client]:
    given = registry.listed if isinstance(registry, Manual) else ()
    with Client(role, registry.target, registry.config, *more, *given) as client:
        if isinstance(registry, Manual):
            registry.client = client
        yield client


def _change(registry: Registry, client: Client, place: str, stages: list[dict[str, float]] | None = None) -> float:
    """The place comes, and goes afterwards. Milliseconds from the write to its first answer, and to each stage if the client is traced."""
    client.pipe.send(("arm",))
    moment = registry.put(3, place)
    answer = client.answer()
    if stages is not None:
        stages.append({stage: (when - moment) * 1000 for stage, when in answer.items()})
        answer = answer[ANSWERED]
    time.sleep(PAUSE)
    registry.put(3, "")
    time.sleep(2 * PAUSE)  # longer than coalescing
    return float(answer - moment) * 1000
