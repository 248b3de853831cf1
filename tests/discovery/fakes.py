"""A clock and a source that tests drive by hand, for faults that a real registry cannot be made to show on cue."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

from discovery.config import Empty
from discovery.resolving.publisher import Publisher
from discovery.snapshot import Endpoint, Health, Snapshot
from discovery.status import Status


def endpoints(*ports: int, zone: str = "") -> list[Endpoint]:
    """Endpoints of one host that differ by port."""
    return [Endpoint("127.0.0.1", port, zone=zone) for port in ports]


def snapshot(*ports: int) -> Snapshot:
    """A snapshot of `endpoints`."""
    return Snapshot.of(endpoints(*ports))


def unready(*ports: int) -> Snapshot:
    """The same endpoints, none of which may get requests."""
    return Snapshot.of(endpoint._replace(health=Health.UNHEALTHY) for endpoint in endpoints(*ports))


def on_sets(resolver: Publisher, put: Callable[[Snapshot], object]) -> Callable[[], None]:
    """Call `put` with every set that a resolver passes on; returns a function that ends it."""
    last: list[Snapshot] = []

    def listener(status: Status) -> None:
        if status.snapshot is not None and (not last or last[0] is not status.snapshot):
            last[:] = [status.snapshot]
            put(status.snapshot)

    return resolver.subscribe(listener)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A source that does what the test puts into it: a snapshot is yielded, an exception raised, None ends the watch."""

    knows_health: ClassVar[bool] = True
    empty: ClassVar[Empty] = Empty("keep")
    registry = "script"

    def __init__(self) -> None:
        self.steps: queue.Queue[Snapshot | Exception | None] = queue.Queue()
        self.watches: queue.Queue[int] = queue.Queue()  # a number for every watch that was begun
        self.closed = threading.Event()
        self._begun = 0

    def watch(self) -> Iterator[Snapshot]:
        self._begun += 1
        self.watches.put(self._begun)
        while not self.closed.is_set():
            step = self.steps.get()
            if isinstance(step, Exception):
                raise step
            if step is None:
                return
            yield step

    def close(self) -> None:
        self.closed.set()
        self.steps.put(None)
