"""Samples in, a row with median and spread out."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure. `goal` is an upper bound unless `at_least`; None where nothing was promised.

    low, high: the samples' 5th and 95th percentile; with `estimate`, the 95 % confidence interval of the figure itself.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    samples: int
    goal: float | None = None
    at_least: bool = False
    estimate: bool = False

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


def estimate(
    name: str, unit: str, groups: Sequence[Sequence[float]], goal: float | None = None, *, at_least: bool = False
) -> Row:
    """The mean of the groups' medians, and how sure it is. A group is what one pair of channels has shown: samples of the same pair are
    not independent, pairs are."""
    medians = [statistics.median(group) for group in groups]
    found, degrees = statistics.fmean(medians), len(medians) - 1
    student = 1.96 + 2.37 / degrees + 2.82 / degrees**2  # t at 95 %, to 2 % from four degrees of freedom on
    around = student * statistics.stdev(medians) / len(medians) ** 0.5
    return Row(name, unit, found, found - around, found + around, sum(map(len, groups)), goal, at_least, estimate=True)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent of them do not exceed (nearest rank)."""
    return sorted(samples)[max(0, -int(-len(samples) * percent // 100) - 1)]


def fewer(count: int, quick: bool, least: int = 2) -> int:
    """How often to measure: `count`, or with `quick` a twentieth of it, to see that it runs."""
    return max(least, count // 20) if quick else count


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown."""
    yield "| what | median | 5 % to 95 % | unit | samples | goal | met |"
    yield "|---|---:|---:|---|---:|---:|---|"
    for each in rows:
        goal = "" if each.goal is None else f"{'≥' if each.at_least else '≤'} {_figure(each.goal)}"
        met = {None: "", True: "yes", False: "**no**"}[each.met]
        yield f"| {each.name} | {_figure(each.median)} | {_spread(each)} | {each.unit} | {each.samples} | {goal} | {met} |"


def _spread(each: Row) -> str:
    if each.estimate:
        return f"± {_figure((each.high - each.low) / 2)}"
    return f"{_figure(each.low)} to {_figure(each.high)}" if each.samples > 1 else ""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """For machines."""
    return [{**asdict(each), "met": each.met} for each in rows]


def from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """What `as_json` has made."""
    return [Row(**{name: value for name, value in each.items() if name != "met"}) for each in rows]
