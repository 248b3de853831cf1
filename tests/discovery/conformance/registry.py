"""What a registry must let a test do to it, and a follower that sees what comes of it."""

import abc
import queue
from collections.abc import Iterable, Mapping
from typing import ClassVar

import pytest

from discovery.config import Backoff, Config
from discovery.resolving.failover import open_resolver
from discovery.snapshot import Endpoint, Snapshot
from discovery.status import Status
from discovery.target import parse
from discovery.testing import Backend

from ..fakes import on_sets
from ..servers import DEADLINE, until

Place = tuple[str, int]
"""Address and port."""


def places(*numbers: int) -> list[Place]:
    """Places at which nothing listens."""
    return [(f"10.9.{number // 250}.{number % 250 + 1}", 50051) for number in numbers]


class Registry(abc.ABC):
    """One real registry, with two services of its own, 0 and 1."""

    name: ClassVar[str]
    marks: ClassVar[tuple[pytest.MarkDecorator, ...]] = ()
    lacks: ClassVar[Mapping[str, str]] = {}
    """Tests of promises that have no meaning here: name of the test, and why."""

    @abc.abstractmethod
    def target(self, service: int = 0) -> str:
        """What to open."""

    def config(self, *, impatient: bool = False) -> Config:
        """Settings for a test; `impatient` ones notice a silent registry within a second or two."""
        del impatient
        return Config(backoff=Backoff(0.01, 0.1), health=None)

    @abc.abstractmethod
    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        """Make exactly these the service's endpoints, as whoever writes to such a registry would."""

    def rewrite(self) -> None:
        """Write again what is there, so that its version rises."""
        raise NotImplementedError

    def spoil(self) -> str:
        """Add an entry that cannot be meant; returns a word of the problem that it makes."""
        raise NotImplementedError

    def down(self) -> None:
        """Break what goes on and refuse what comes, until `up`; `set` still works."""
        raise NotImplementedError

    def up(self) -> None:
        raise NotImplementedError

    def hang(self) -> None:
        """Answer nothing and break nothing, until `thaw`; `set` still works."""
        raise NotImplementedError

    def thaw(self) -> None:
        raise NotImplementedError

    def servers(self, *names: str) -> dict[str, tuple[Backend, Place]]:
        """Real servers, at places that this registry can hold."""
        running = {name: Backend(name) for name in names}
        return {name: (server, ("127.0.0.1", server.port)) for name, server in running.items()}

    @abc.abstractmethod
    def close(self) -> None:
        """Take everything away."""


class Follower:
    """A resolver on one of the registry's services, and every set that it passed on."""

    def __init__(self, registry: Registry, service: int = 0, config: Config | None = None) -> None:
        self.resolver = open_resolver(parse(registry.target(service)), config or registry.config())
        self.seen: list[set[Place]] = []
        self._passed: queue.Queue[Snapshot] = queue.Queue()
        on_sets(self.resolver, self._passed.put)
        self.resolver.start()

    @property
    def status(self) -> Status:
        return self.resolver.status

    def next(self) -> set[Place]:
        """The next set that is passed on."""
        self.seen.append({endpoint[:2] for endpoint in self._passed.get(timeout=DEADLINE).endpoints})
        return self.seen[-1]

    def until(self, wanted: Iterable[Place]) -> None:
        """Follow until exactly these are the set."""
        expected = set(wanted)
        try:
            while self.next() != expected:
                pass
        except queue.Empty:
            raise AssertionError(f"expected {sorted(expected)[:5]}, seen {self.seen[-3:]}, {self.status}") from None

    def until_stale(self) -> None:
        """Follow until the source has failed at least three times; what was passed on last must have stayed."""
        restarts = self.status.restarts
        until(lambda: self.status.state != "synced" and self.status.restarts > restarts + 2)

    @property
    def quiet(self) -> bool:
        """Whether nothing was passed on that was not looked at."""
        return self._passed.empty()

    def endpoints(self) -> frozenset[Endpoint]:
        snapshot = self.status.snapshot
        return snapshot.endpoints if snapshot else frozenset()

    def close(self) -> None:
        """End it; its threads must go."""
        self.resolver.close()
        assert self.resolver.join(DEADLINE), "a thread outlives the resolver"
