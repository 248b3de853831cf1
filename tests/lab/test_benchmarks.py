"""Every part of the benchmarks that needs no project runs; what its figures say is for `make bench` on a quiet machine."""

import os

import pytest

from lab.benchmarks.__main__ import OF_DISCOVERY
from lab.benchmarks.registries.stages import READY
from lab.benchmarks.report import estimate, percentile, table

SPOKEN_OF = {
    "calls": "calls per second, discovery / static ipv4: list, aio, 16 tasks",
    "layers": "weighted clusters",
    "changes": READY,
    "updates": "CPU per update, 100 endpoints",
    "processes": "imports discovery",
    "zones": "own zone back",
    "outages": "failed calls",
}


@pytest.mark.parametrize("part", OF_DISCOVERY)
def test_it_runs(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster, which is slow to fill."""
    monkeypatch.delitem(os.environ, "KUBECONFIG", raising=False)
    rows = list(OF_DISCOVERY[part](True))
    assert any(SPOKEN_OF[part] in each.name for each in rows), list(table(rows))
    assert all(each.met is not False for each in rows if each.unit == "calls"), list(table(rows))


def test_an_estimate_says_how_sure_it_is() -> None:
    """What varies between channels counts, what varies between the samples of one does not."""
    sure = estimate("a", "ratio", [[1.0, 1.1, 1.2]] * 5, 1.0)
    unsure = estimate("a", "ratio", [[1.0], [1.2], [1.1], [1.0], [1.2]], 1.2)
    assert (round(sure.median, 9), round(sure.high - sure.low, 9), sure.met) == (1.1, 0.0, False)
    assert (unsure.low < 1.0, unsure.high > 1.2, unsure.met) == (True, True, True)
    assert "± 0.122" in next(line for line in table([unsure]) if line.startswith("| a"))
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7.0], 99) == 7
