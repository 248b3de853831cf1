"""failover.py: the first target of a list that is synced counts."""

import queue
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from discovery import Config, Etcd, Health, Manual, insecure_channel, status, testing
from discovery.config import Backoff, Empty
from discovery.errors import NotSyncedError, SourceError, TargetError
from discovery.resolving.failover import Failover
from discovery.resolving.resolver import Resolver
from discovery.snapshot import Snapshot
from discovery.target import Target, parse

from .fakes import Script, on_sets, snapshot
from .servers import DEADLINE, servers, until, who

FIRST, SECOND, THIRD = snapshot(1), snapshot(2), snapshot(3)
DOWN = SourceError("the registry is down")


class Run:
    """A list of scripted targets; `sources` has, by target, the source that was opened last."""

    def __init__(self, patience: float = 3600.0, **options: Any) -> None:
        self.target = parse("manual:///a,manual:///b,manual:///c")
        self.sources: dict[str, Script] = {}
        self.opened: queue.Queue[str] = queue.Queue()
        self.passed: queue.Queue[Snapshot] = queue.Queue()
        self.config = Config(**{"coalesce": 0, "backoff": Backoff(0.01, 0.01), **options})
        self.broken: set[str] = set()
        self.failover = Failover(self.target, self.target.choices, self._build, patience=patience)
        on_sets(self.failover, self.passed.put)
        self.failover.start()

    def _build(self, target: Target) -> Resolver:
        self.opened.put(target.name)
        if target.name in self.broken:
            raise TargetError(f"target '{target}' needs the library x")
        self.sources[target.name] = Script()
        return Resolver(target, self.sources[target.name], self.config)

    def close(self) -> None:
        """End it; nothing of it stays."""
        self.failover.close()
        assert self.failover.join(DEADLINE)
        for source in self.sources.values():
            assert source.closed.wait(DEADLINE)

    def opens(self) -> str:
        return self.opened.get(timeout=DEADLINE)

    def next(self) -> Snapshot:
        return self.passed.get(timeout=DEADLINE)

    def say(self, name: str, step: Snapshot | Exception) -> None:
        self.sources[name].steps.put(step)

    @property
    def via(self) -> str:
        return self.failover.status.via.rpartition("/")[2]


@pytest.fixture
def run() -> Iterator[Run]:
    made = Run()
    assert made.opens() == "a"
    yield made
    made.close()


def test_while_the_first_is_synced_no_other_runs(run: Run) -> None:
    """A second watch would cost its registry for nothing."""
    run.say("a", FIRST)
    assert run.next() == FIRST
    until(lambda: run.via == "a")
    assert list(run.sources) == ["a"]


def test_one_that_fails_at_the_start_gives_way_at_once_and_comes_back(run: Run) -> None:
    """Down the list until one works; the first counts again as soon as it is synced, and the others end."""
    run.say("a", DOWN)
    assert run.opens() == "b"
    run.say("b", DOWN)
    assert run.opens() == "c"
    run.say("c", THIRD)
    assert run.next() == THIRD
    until(lambda: run.via == "c")
    assert run.failover.status.last_error == str(DOWN)
    run.say("a", FIRST)
    assert run.next() == FIRST
    for name in "bc":
        assert run.sources[name].closed.wait(DEADLINE)
    until(lambda: run.via == "a" and run.failover.status.last_error is None)


def test_a_blip_of_the_first_starts_nothing(run: Run) -> None:
    """Its last set stays in use, and it is given time to come back."""
    run.say("a", FIRST)
    assert run.next() == FIRST
    run.say("a", DOWN)
    until(lambda: run.failover.status.state == "stale")
    run.say("a", SECOND)
    assert run.next() == SECOND
    assert run.opened.empty()


def test_one_that_stays_away_or_silent_gives_way_when_patience_ends() -> None:
    """Also where it neither answers nor fails; the last set stays until the next one has something."""
    run = Run(patience=0.05)
    assert [run.opens(), run.opens()] == ["a", "b"]
    run.say("b", SECOND)
    assert run.next() == SECOND
    run.say("b", DOWN)
    assert run.opens() == "c"
    assert run.failover.status.snapshot == SECOND
    run.say("c", THIRD)
    assert run.next() == THIRD
    run.close()


def test_with_all_of_them_down_the_last_set_stays(run: Run) -> None:
    """And the error that is told is the first one's."""
    run.say("a", DOWN)
    assert run.opens() == "b"
    run.say("b", SECOND)
    assert run.next() == SECOND
    run.say("b", SourceError("the second is down"))
    until(lambda: run.failover.status.state == "stale")
    assert run.failover.status.snapshot == SECOND
    assert run.failover.status.last_error == str(DOWN)


@pytest.mark.parametrize(
    ("options", "steps", "last"),
    [
        ({"coalesce": 0.05}, [FIRST, SECOND, THIRD], THIRD),
        ({"empty": Empty("hold", 0.05)}, [FIRST, Snapshot()], Snapshot()),
    ],
    ids=["the end of a burst", "the end of hold"],
)
def test_what_a_resolver_passes_on_later_reaches_the_list(options: dict[str, Any], steps: list[Snapshot], last: Snapshot) -> None:
    """Not only what it passes on while its source speaks."""
    run = Run(**options)
    for step in steps:
        run.say("a", step)
    while run.next() != last:
        pass
    run.close()


def test_a_change_of_health_reaches_the_list() -> None:
    """It comes from a health check, not from the source."""
    with testing.backends(2) as backends:
        target = f"static:///{backends[0].address},{backends[1].address},manual:///{uuid.uuid4().hex}"
        with insecure_channel(target):
            until(lambda: status(target).by_health().get(Health.HEALTHY) == 2)
            backends[0].drain()
            until(lambda: status(target).by_health().get(Health.HEALTHY) == 1)


def test_an_empty_first_answer_never_replaces_what_another_target_serves(run: Run) -> None:
    """It is as suspicious as an empty answer of the same registry: perhaps a registry that has just lost its data."""
    run.say("a", DOWN)
    assert run.opens() == "b"
    run.say("b", SECOND)
    assert run.next() == SECOND
    run.say("a", Snapshot())
    run.say("b", THIRD)
    assert run.next() == THIRD
    until(lambda: run.via == "b")
    run.say("b", SourceError("the second is down"))
    until(lambda: run.failover.status.state == "stale")
    assert run.failover.status.snapshot == THIRD
    run.say("a", FIRST)
    assert run.next() == FIRST


def test_a_later_target_that_cannot_be_opened_is_told_passed_over_and_tried_again() -> None:
    """The library of its source is missing, say; the others are followed for ever."""
    run = Run(patience=0.05)
    run.broken.add("b")
    assert run.opens() == "a"
    run.say("a", DOWN)
    assert [run.opens(), run.opens()] == ["b", "c"]
    assert run.opens() == "b", "it is not tried again"
    run.say("c", THIRD)
    assert run.next() == THIRD
    run.broken.clear()
    until(lambda: "b" in run.sources)
    run.say("b", SECOND)
    assert run.next() == SECOND
    run.say("a", FIRST)
    assert run.next() == FIRST
    run.close()


def test_a_list_whose_only_other_target_cannot_be_opened_says_so() -> None:
    """While the first has neither a set nor an error."""
    run = Run(patience=0.02)
    run.broken |= {"b", "c"}
    until(lambda: "needs the library x" in (run.failover.status.last_error or ""))
    run.say("a", FIRST)
    assert run.next() == FIRST
    until(lambda: run.failover.status.last_error is None)
    run.close()


def test_waiting_for_a_first_set_names_the_reason(run: Run) -> None:
    """As for a single target."""
    run.say("a", DOWN)
    until(lambda: run.failover.status.last_error is not None)
    with pytest.raises(NotSyncedError, match="the registry is down"):
        run.failover.wait_until_synced(0.01)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("manual:///a,dns:///b:1", "can stand in a list, not 'dns:///b:1'"),
        ("manual:///a,nope:///b", "the scheme 'nope' is unknown"),
        ("manual:///a,static:///b", "is not host:port"),
    ],
)
def test_every_target_of_a_list_is_checked_at_once(text: str, reason: str) -> None:
    """Not only when the ones before it have failed."""
    with pytest.raises(TargetError, match=reason):
        parse(text)


def test_a_static_list_of_addresses_is_one_target() -> None:
    """Only a comma before a scheme begins the next target."""
    assert parse("static:///127.0.0.1:1,127.0.0.1:2").choices == ()
    both = parse("static:///127.0.0.1:1,127.0.0.1:2,manual:///x")
    assert [choice.name for choice in both.choices] == ["127.0.0.1:1,127.0.0.1:2", "x"]


def test_a_channel_on_a_list_is_served_by_the_target_that_works() -> None:
    """From the channel to real servers, with an etcd that is not there."""
    manual = Manual(uuid.uuid4().hex)
    target = f"etcd:///greeter,{manual.target}"
    with servers("one") as running, insecure_channel(target, config=Config(etcd=Etcd(("127.0.0.1:1",)))) as channel:
        manual.set([running["one"].address])
        assert who(channel, wait_for_ready=True) == "one"
        assert status(target).via == manual.target
        assert "127.0.0.1:1" in (status(target).last_error or "")
