"""resolver.py: what is passed on, when, and what happens when the source fails."""

import logging
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery import metrics
from discovery.config import Backoff, Config, Empty, Remember
from discovery.errors import NotSyncedError, SourceError
from discovery.resolving.resolver import Resolver
from discovery.snapshot import Snapshot
from discovery.target import parse

from .fakes import Clock, Script, on_sets, snapshot, unready
from .servers import DEADLINE, until

TARGET = parse("manual:///test")


class Run:
    """A resolver over a scripted source, and what it passed on."""

    def __init__(self, config: Config | None = None, clock: Clock | None = None) -> None:
        self.source = Script()
        self.clock = clock
        self.waits: list[tuple[float, float]] = []
        self.passed: queue.Queue[Snapshot] = queue.Queue()
        arguments: dict[str, Any] = {"clock": clock} if clock else {}
        self.resolver = Resolver(TARGET, self.source, config or Config(coalesce=0), jitter=self._jitter, **arguments)
        on_sets(self.resolver, self.passed.put)
        self.resolver.start()

    def _jitter(self, low: float, high: float) -> float:
        self.waits.append((low, high))
        return 0.0

    def next(self) -> Snapshot:
        return self.passed.get(timeout=DEADLINE)

    def began(self) -> int:
        return self.source.watches.get(timeout=DEADLINE)


@pytest.fixture
def run() -> Iterator[Run]:
    made = Run()
    yield made
    made.resolver.close()
    assert made.resolver.join(DEADLINE), "the resolver's threads outlive it"


def test_every_change_is_passed_on(run: Run) -> None:
    """Initial set, add, remove, replace all."""
    for ports in [(1,), (1, 2), (2,), (3, 4)]:
        run.source.steps.put(snapshot(*ports))
        assert run.next() == snapshot(*ports)
    assert run.resolver.status.pushes == 4


def test_an_equal_set_is_not_passed_on(run: Run) -> None:
    """Whatever the order or the repetition, only another content counts."""
    run.source.steps.put(snapshot(1, 2))
    run.source.steps.put(snapshot(2, 1))
    run.source.steps.put(snapshot(3))
    assert [run.next(), run.next()] == [snapshot(1, 2), snapshot(3)]
    assert run.resolver.status.pushes == 2


def test_a_burst_becomes_the_first_change_and_the_last(run: Run) -> None:
    """What comes within the window is put together. The first set of all opens none, so that the change after it does not wait."""
    slow = Run(Config(coalesce=3600), clock := Clock())
    try:
        for port in range(1, 50):
            slow.source.steps.put(snapshot(port))
        assert [slow.next(), slow.next()] == [snapshot(1), snapshot(2)]
        slow.source.steps.put(None)  # the watch has taken everything once it begins anew
        assert (slow.began(), slow.began()) == (1, 2)
        assert slow.passed.empty()
        clock.now += 3600
        slow.resolver.reconsider()
        assert slow.next() == snapshot(49)
    finally:
        slow.resolver.close()


def test_what_waited_is_passed_on_when_the_window_ends() -> None:
    """Without any further event: the resolver has a clock of its own."""
    run = Run(Config(coalesce=0.05))
    try:
        for port in (1, 2, 3):
            run.source.steps.put(snapshot(port))
        assert [run.next(), run.next(), run.next()] == [snapshot(1), snapshot(2), snapshot(3)]
    finally:
        run.resolver.close()


def test_a_failed_source_keeps_the_last_set_and_is_begun_anew(run: Run) -> None:
    """Nothing is passed on for a failure; the status tells it, and forgets it when the source is back."""
    run.source.steps.put(snapshot(1))
    run.next()
    run.source.steps.put(SourceError("the registry is down"))
    assert (run.began(), run.began()) == (1, 2)
    status = run.resolver.status
    assert (status.state, status.last_error, status.snapshot) == ("stale", "the registry is down", snapshot(1))
    run.source.steps.put(snapshot(1, 2))
    assert run.next() == snapshot(1, 2)
    status = run.resolver.status
    assert (status.state, status.last_error, status.restarts) == ("synced", None, 1)


def test_the_wait_is_random_below_a_bound_that_doubles_to_a_limit(run: Run) -> None:
    """Full jitter: from zero to the bound."""
    run.began()
    for _ in range(8):
        run.source.steps.put(SourceError("down"))
        run.began()
    assert run.waits == [(0.0, bound) for bound in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0)]


def test_the_bound_falls_back_only_after_a_watch_that_lived() -> None:
    """A registry that accepts a watch and breaks it at once must not be asked at full speed."""
    run = Run(Config(coalesce=0, backoff=Backoff(base=1, limit=10)), clock := Clock())
    try:
        for lived in (0, 0, 9, 10):
            run.began()
            run.source.steps.put(snapshot(1))
            until(lambda: run.resolver.status.state == "synced")
            clock.now += lived
            run.source.steps.put(SourceError("broken"))
            until(lambda: run.resolver.status.state != "synced")
        run.began()
        assert [high for _, high in run.waits] == [1, 2, 4, 1]
    finally:
        run.resolver.close()


def test_a_source_can_ask_for_a_longer_wait(run: Run) -> None:
    """What a person must mend, such as a missing right, is retried slowly."""
    run.began()
    run.source.steps.put(SourceError("forbidden", retry_after=3600))
    until(lambda: run.resolver.status.last_error is not None)
    with pytest.raises(queue.Empty):
        run.source.watches.get(timeout=0.2)


def test_a_defect_of_the_source_is_logged_shown_and_survived(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """No background task ends unseen."""
    run.began()
    with caplog.at_level(logging.ERROR):
        run.source.steps.put(ZeroDivisionError("oops"))
        run.began()
    assert "ZeroDivisionError: oops" in (run.resolver.status.last_error or "")
    assert "has a bug" in caplog.text


def test_an_empty_answer_is_kept_back_and_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The policy is the source's own unless the caller chose one."""
    run.source.steps.put(snapshot(1))
    run.next()
    run.source.steps.put(snapshot())
    run.source.steps.put(snapshot())
    run.source.steps.put(SourceError("enough"))
    assert (run.began(), run.began()) == (1, 2)
    assert run.resolver.status.snapshot == snapshot(1)
    assert "policy 'keep'" in (run.resolver.status.suspicious or "")
    assert caplog.text.count("lists no endpoint any more") == 1
    run.source.steps.put(snapshot(2))
    assert run.next() == snapshot(2)
    assert run.resolver.status.suspicious is None


def test_a_set_that_is_unready_as_a_whole_is_kept_back_as_an_empty_one_is(run: Run) -> None:
    """A cluster that has lost sight of its nodes says so of every pod; one that is ready is enough to be believed."""
    run.source.steps.put(snapshot(1, 2))
    run.next()
    run.source.steps.put(unready(1, 2))
    run.source.steps.put(SourceError("enough"))
    assert (run.began(), run.began()) == (1, 2)
    assert run.resolver.status.snapshot == snapshot(1, 2)
    assert "lists none of its 2 endpoints as ready" in (run.resolver.status.suspicious or "")
    run.source.steps.put(snapshot(2))
    assert run.next() == snapshot(2)
    assert run.resolver.status.suspicious is None


def test_an_empty_answer_is_believed_when_it_was_held_long_enough() -> None:
    """The time counts from the first empty answer, and passes without any further answer."""
    run = Run(Config(coalesce=0, empty=Empty("hold", 0.05)))
    try:
        run.source.steps.put(snapshot(1))
        run.source.steps.put(snapshot())
        assert [run.next(), run.next()] == [snapshot(1), snapshot()]
    finally:
        run.resolver.close()


def test_the_time_of_hold_passes_only_while_the_registry_is_read() -> None:
    """A registry that is down proves nothing: what it said last may be a part of its going down."""
    run = Run(Config(coalesce=0, empty=Empty("hold", 30)), clock := Clock())
    try:
        run.source.steps.put(snapshot(1))
        assert run.next() == snapshot(1)
        run.source.steps.put(snapshot())
        until(lambda: run.resolver.status.suspicious is not None)
        for restarts in range(1, 4):
            clock.now += 10  # of which the registry is read until it fails
            run.source.steps.put(SourceError(f"down for the {restarts}. time"))
            until(lambda restarts=restarts: run.resolver.status.restarts == restarts)  # type: ignore[misc]
            clock.now += 1000
            run.resolver.reconsider()
            assert run.resolver.status.snapshot == snapshot(1)
            synced_at = clock.now
            run.source.steps.put(snapshot())
            until(lambda synced_at=synced_at: run.resolver.status.synced_at == synced_at)  # type: ignore[misc]
        assert run.next() == snapshot(), "30 s of a registry that was read"
    finally:
        run.resolver.close()


def test_the_lag_of_a_change_counts_from_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from a set before it that was not believed; and in a burst from its first change."""
    lags: list[float] = []
    monkeypatch.setattr(metrics, "record_lag", lambda target, seconds: lags.append(seconds))
    run = Run(Config(coalesce=0, empty=Empty("keep")), clock := Clock())
    try:
        run.source.steps.put(snapshot(1))
        assert run.next() == snapshot(1)
        run.source.steps.put(snapshot())
        until(lambda: run.resolver.status.suspicious is not None)
        clock.now += 3
        run.source.steps.put(snapshot(1, 2))
        assert run.next() == snapshot(1, 2)
        until(lambda: len(lags) == 2)
        assert lags == [0, 0]
    finally:
        run.resolver.close()


def test_waiting_for_the_first_set_ends_with_it_or_with_the_reason(run: Run) -> None:
    """The error says why there is none."""
    run.began()
    run.source.steps.put(SourceError("the registry is down"))
    run.began()
    with pytest.raises(NotSyncedError, match="no endpoints after 0.01 s: the registry is down"):
        run.resolver.wait_until_synced(0.01)
    run.source.steps.put(snapshot(1))
    run.resolver.wait_until_synced(DEADLINE)


def test_a_late_listener_is_told_the_current_set(run: Run) -> None:
    """A second channel on a target does not wait for a change."""
    run.source.steps.put(snapshot(1))
    run.next()
    late: list[Snapshot] = []
    end = on_sets(run.resolver, late.append)
    assert late == [snapshot(1)]
    end()
    run.source.steps.put(snapshot(2))
    run.next()
    assert late == [snapshot(1)]


def test_problems_are_shown_and_logged_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """One malformed entry among good ones costs nothing but a sentence."""
    for port in (1, 2):
        run.source.steps.put(Snapshot.of(snapshot(port).endpoints, ["entry x has no port"]))
        run.next()
    assert run.resolver.status.problems == ("entry x has no port",)
    assert caplog.text.count("entry x has no port") == 1


def test_nothing_is_passed_on_after_close(run: Run) -> None:
    """A channel that was closed must not come to life again."""
    run.source.steps.put(snapshot(1))
    run.next()
    run.resolver.close()
    assert run.resolver.join(DEADLINE)
    run.resolver.reconsider()
    assert run.passed.empty()
    assert run.resolver.status.state == "closed"


@pytest.mark.parametrize("remember", [False, True])
def test_between_changes_it_does_nothing(remember: bool, tmp_path: Path) -> None:
    """Every look at the clock is a round of some loop; of those there are a handful for a change, and none after it."""
    looks = 0

    class Counting(Clock):
        def __call__(self) -> float:
            nonlocal looks
            looks += 1
            return super().__call__()

    config = Config(coalesce=0, remember=Remember(str(tmp_path) if remember else ""))
    run = Run(config, Counting())
    run.source.steps.put(snapshot(1))
    assert run.next() == snapshot(1)
    assert not run.source.closed.wait(0.2)
    assert looks < 100
    run.resolver.close()
    assert run.resolver.join(DEADLINE)
