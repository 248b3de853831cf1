"""sources/manual.py: a set that the program decides."""

import queue
import threading
import uuid
from collections.abc import Iterator

import pytest

from discovery import Config, Endpoint, Health, Manual, Snapshot, TargetError
from discovery.sources.source import Source, open_source
from discovery.target import parse

from .servers import DEADLINE

ONE, TWO = Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2)


@pytest.fixture
def manual() -> Manual:
    """A name of its own for each test."""
    return Manual(f"test/{uuid.uuid4().hex}")


def opened(manual: Manual) -> Source:
    return open_source(parse(manual.target), Config())


class Watch:
    """A source that is watched on a thread, as a resolver does."""

    def __init__(self, source: Source) -> None:
        self.seen: queue.Queue[frozenset[Endpoint]] = queue.Queue()
        self.thread = threading.Thread(target=self._run, args=(source,), daemon=True)
        self.thread.start()

    def _run(self, source: Source) -> None:
        for snapshot in source.watch():
            self.seen.put(snapshot.endpoints)

    def next(self) -> frozenset[Endpoint]:
        return self.seen.get(timeout=DEADLINE)


@pytest.fixture
def watch(manual: Manual) -> Iterator[Watch]:
    source = opened(manual)
    made = Watch(source)
    yield made
    source.close()
    made.thread.join(DEADLINE)
    assert not made.thread.is_alive()


def test_every_set_reaches_whoever_watches(manual: Manual, watch: Watch) -> None:
    """Text and endpoints, also none at all."""
    steps: list[tuple[list[Endpoint | str], set[Endpoint]]] = [
        (["127.0.0.1:1"], {ONE}),
        ([ONE, "127.0.0.1:2"], {ONE, TWO}),
        ([], set()),
        (["[::1]:3"], {Endpoint("::1", 3)}),
        ([TWO._replace(health=Health.DRAINING, zone="a")], {TWO._replace(health=Health.DRAINING, zone="a")}),
    ]
    for given, expected in steps:
        manual.set(given)
        assert watch.next() == expected


def test_a_set_from_before_the_watch_is_not_lost_and_a_new_watch_begins_with_the_last(manual: Manual) -> None:
    """Program and channel come in any order, and a watch that is begun anew starts with the whole set."""
    manual.set([ONE])
    manual.set([TWO])
    source = opened(manual)
    for _ in range(2):
        assert next(iter(source.watch())) == Snapshot(frozenset({TWO}))


def test_nothing_set_yet_is_not_an_empty_set(manual: Manual) -> None:
    """Calls wait for the first set rather than fail; a close ends the wait."""
    source = opened(manual)
    watch = Watch(source)
    source.close()
    watch.thread.join(DEADLINE)
    assert not watch.thread.is_alive()
    assert watch.seen.empty()
    manual.set([ONE])
    assert list(source.watch()) == []


def test_all_who_watch_a_name_are_told_and_no_other(manual: Manual, watch: Watch) -> None:
    """Two channels on one name, one on another."""
    again, other = opened(manual), opened(Manual(f"{manual.target.removeprefix('manual:///')}_other"))
    second, third = Watch(again), Watch(other)
    manual.set([ONE])
    assert watch.next() == second.next() == {ONE}
    for source in (again, other):
        source.close()
    third.thread.join(DEADLINE)
    assert third.seen.empty()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("127.0.0.1", "is not host:port"),
        ("::1:80", "in brackets"),
        ("127.0.0.1:0", "port from 1 to 65535"),
        ("localhost:80", "the address is no IP literal"),
        (Endpoint("127.0.0.1", 80, weight=0), "weight 0 must be"),
    ],
)
def test_one_bad_entry_is_refused_and_the_set_stays_as_it_was(
    manual: Manual, watch: Watch, bad: Endpoint | str, reason: str
) -> None:
    """The caller is the one who can mend it."""
    manual.set([ONE])
    assert watch.next() == {ONE}
    with pytest.raises(TargetError, match=reason):
        manual.set([TWO, bad])
    assert next(iter(opened(manual).watch())).endpoints == {ONE}
    manual.set([ONE, TWO])
    assert watch.next() == {ONE, TWO}


@pytest.mark.parametrize("name", ["", "/x", "x/", "a b", "a?b"])
def test_a_name_that_cannot_stand_in_a_target_is_refused(name: str) -> None:
    """Before anything is set."""
    with pytest.raises(TargetError):
        Manual(name)
