"""The long runs of lab/benchmarks/stress.py, short: the promises are the same, `make stress` keeps them for longer."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.benchmarks import rolling_restart, stress
from lab.benchmarks.__main__ import _kept
from lab.benchmarks.report import as_json, row
from lab.project import Project


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


def test_a_rolling_restart_loses_no_call(project: Project) -> None:
    """A project's processes, twice over: with nothing but their health to go by, and with etcd where it is."""
    rows = list(rolling_restart.measure(project, rounds=1, calls=1000))
    assert [each.median for each in rows if "failed" in each.name] in ([0], [0, 0])


def test_figures_of_an_earlier_run_are_kept_beside_those_of_a_later_one(tmp_path: Path) -> None:
    """Long runs are made apart, and one page shows them all."""
    path = tmp_path / "benchmarks.json"
    rows = [row("a", "ms", [1, 2, 3], 5), row("b", "1/s", [1.0], 2, at_least=True)]
    path.write_text(json.dumps({"machine": "here", "parts": {"first": as_json(rows)}}))
    assert _kept(path, "here") == {"first": rows}
    assert _kept(path, "elsewhere") == _kept(tmp_path / "none", "here") == {}
    assert [each.met for each in rows] == [True, False]
