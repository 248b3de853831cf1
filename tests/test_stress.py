"""The long runs of benchmarks/stress.py, short: the promises are the same, `make stress` keeps them for longer."""

import asyncio
from collections.abc import Callable

import pytest

from benchmarks import rolling_restart, stress


@pytest.mark.parametrize(
    "run",
    [
        lambda: asyncio.run(stress._many()),
        lambda: asyncio.run(stress._changes(15)),
        lambda: stress._exits(6),
        lambda: stress._channels(300),
    ],
    ids=["1,000 endpoints and 3,000 calls", "changes", "exits", "channels"],
)
def test_it_holds(run: Callable[[], stress.Outcome]) -> None:
    """No call fails, nothing hangs, nothing grows."""
    outcome = run()
    assert outcome.held, outcome


def test_a_rolling_restart_loses_no_call() -> None:
    """A baked project's processes, twice over: with nothing but their health to go by, and with etcd where it is."""
    rows = list(rolling_restart.measure(rounds=1, calls=1000))
    assert [each.median for each in rows if "failed" in each.name] in ([0], [0, 0])
