"""Samples in, a row with median and spread out."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure. `goal` is an upper bound unless `at_least`; None where nothing was promised."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    samples: int
    goal: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal


def row(name: str, unit: str, samples: Sequence[float], goal: float | None = None, *, at_least: bool = False) -> Row:
    """The middle of the samples, and their 5th and 95th percentile."""
    ordered = sorted(samples)
    cut = len(ordered) // 20
    return Row(name, unit, statistics.median(ordered), ordered[cut], ordered[-1 - cut], len(ordered), goal, at_least)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown."""
    yield "| what | median | 5 % to 95 % | unit | samples | goal | met |"
    yield "|---|---:|---:|---|---:|---:|---|"
    for each in rows:
        goal = "" if each.goal is None else f"{'≥' if each.at_least else '≤'} {_figure(each.goal)}"
        met = {None: "", True: "yes", False: "**no**"}[each.met]
        spread = f"{_figure(each.low)} to {_figure(each.high)}" if each.samples > 1 else ""
        yield f"| {each.name} | {_figure(each.median)} | {spread} | {each.unit} | {each.samples} | {goal} | {met} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """For machines."""
    return [{**asdict(each), "met": each.met} for each in rows]


def from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """What `as_json` has made."""
    return [Row(**{name: value for name, value in each.items() if name != "met"}) for each in rows]
