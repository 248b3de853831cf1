"""The long runs of benchmarks/stress.py, short: the promises are the same, `make stress` keeps them for longer."""

import asyncio
from collections.abc import Callable

import pytest

from benchmarks import stress


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
    promise, held, figures = run()
    assert held, f"{promise}: {figures}"
