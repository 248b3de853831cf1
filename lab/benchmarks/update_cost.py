"""What one change costs: CPU of the client's process, and the time until gRPC has taken it over, by the size of the set."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator

import discovery
from discovery.wire import messages_pb2 as messages
from discovery.xds import ads_stream

from .peers import method, servers
from .report import Row, row

GOALS = {3: 2.0, 100: 5.0, 1000: 6.0, 5000: 12.0}
"""Endpoints -> milliseconds of CPU."""

UPDATES = 60
PAUSE = 0.1


@contextlib.contextmanager
def _acknowledgements() -> Iterator[threading.Event]:
    """Set whenever gRPC answers the control plane; the product has no such hook, so its method is wrapped here."""
    seen = threading.Event()
    original = ads_stream.Stream.subscribe

    def subscribe(self: ads_stream.Stream, request: messages.DiscoveryRequest) -> bool:
        seen.set()
        return original(self, request)

    ads_stream.Stream.subscribe = subscribe  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        ads_stream.Stream.subscribe = original  # type: ignore[method-assign]


def _endpoints(count: int, port: int) -> list[discovery.Endpoint]:
    """Loopback addresses, all reached by one listening process."""
    return [
        discovery.Endpoint(f"127.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", port) for number in range(count)
    ]


def measure() -> Iterator[Row]:
    """One endpoint leaves and one comes, again and again; what the process costs when idle is subtracted."""
    with servers(1) as [port], _acknowledgements() as acknowledged:
        for size, goal in GOALS.items():
            endpoints = _endpoints(size + UPDATES, port)
            manual = discovery.Manual(uuid.uuid4().hex)
            manual.set(endpoints[:size])
            with discovery.insecure_channel(manual.target) as channel:
                method(channel)(b"x", timeout=60)
                time.sleep(1 + size / 1000)  # until every connection stands; nothing tells
                before = time.process_time()
                time.sleep(2)
                idle = (time.process_time() - before) / 2 * PAUSE
                costs, times = [], []
                for number in range(1, UPDATES + 1):
                    acknowledged.clear()
                    cpu, wall = time.process_time(), time.perf_counter()
                    manual.set(endpoints[number : size + number])
                    acknowledged.wait(10)
                    times.append((time.perf_counter() - wall) * 1000)
                    time.sleep(PAUSE)
                    costs.append((time.process_time() - cpu - idle) * 1000)
            yield row(f"CPU per update, {size:,} endpoints", "ms", costs, goal)
            yield row(f"time to gRPC's acknowledgement, {size:,} endpoints", "ms", times)
