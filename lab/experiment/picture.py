"""A record as a picture, and all of them side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lab.timeline_plot import FAILED, GREY, Mark, State, Timeline
from lab.timeline_plot import draw as draw_timelines

from .measure import Seen, measure, median, numbers
from .record import Act, Record
from .wording import spoken

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C6BB1", "#999933")
"""In turn, so that a pod has the same one in every mode; after Okabe and Ito, whom color-blind people can read."""

_AT_ONCE, _NEVER = 0.0015, 400.0
"""Where the comparison shows a call that came before its pod was seen to be ready, and one that never came; seconds."""


def color(number: int) -> str:
    """The color of the pod with a number."""
    return COLORS[(number - 1) % len(COLORS)]


def draw(path: Path, record: Record, title: str) -> None:
    """Write a PNG of one mode's run. Raises OSError."""
    seen, order, end = measure(record), numbers(record), record.steps[-1].ended
    names = {pod: f"{number}  {pod.rpartition('-')[2]}" for pod, number in order.items()}
    times = [second.at for second in record.seconds]
    edges = [max(0.0, times[0] - 1), *times]
    timelines = [
        Timeline(
            names[pod],
            color(number),
            edges,
            [second.served.get(pod, 0) for second in record.seconds],
            list(_states(record, pod)),
        )
        for pod, number in order.items()
    ]
    failed = [second.at - 0.5 for second in record.seconds for _ in range(sum(second.errors.values()))]
    if failed:
        timelines.append(Timeline("failed", FAILED, edges, [sum(second.errors.values()) for second in record.seconds]))
    marks = [Mark(step.title, step.began) for step in record.steps]
    marks += [Mark("", at, line=False, notes={names[pod]: _found_note(late)}) for pod, at, late in _became(record, seen)]
    draw_timelines(
        path, title, timelines, marks, failed, max(end, times[-1]), most=record.rate, runs="is ready", width=14, height=0.68
    )


def _found_note(late: float | None) -> str:
    if late is None:
        return "no call"
    return "called before it was ready" if late < 0 else f"first call {spoken(late)}"


def _became(record: Record, seen: Sequence[Seen]) -> Iterator[tuple[str, float, float | None]]:
    """Pods that became ready in the course of it, when, and how long until their first call."""
    found = {pod: late for line in seen for pod, late in line.found.items()}
    for change in record.changes:
        if change.what == "ready" and change.pod in found:
            yield change.pod, change.at, found.pop(change.pod)


def _states(record: Record, pod: str) -> Iterator[tuple[State, float, float]]:
    """When it was ready, and when it was ending."""
    end = record.steps[-1].ended
    since: dict[State, float] = {}
    for change in (change for change in record.changes if change.pod == pod):
        if change.what == "ready":
            since["runs"] = max(0.0, change.at)
        elif change.what == "terminating":
            since["drains"] = change.at
        elif change.what in ("not ready", "gone"):
            yield from ((state, at, change.at) for state, at in since.items())
            since = {}
    yield from ((state, at, end) for state, at in since.items())


def compare(path: Path, records: Sequence[Record]) -> None:
    """Write a PNG of all modes: how soon new pods are found, and what fails in which step. Raises OSError."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(14, 1.6 + 0.62 * len(records)), dpi=140, layout="constrained", width_ratios=(1, 1)
    )
    _found(left, records)
    _failures(right, records)
    for axes in (left, right):
        axes.set_yticks(range(len(records)), [record.mode for record in records], fontsize=10, fontweight="bold")
        axes.set_ylim(len(records) - 0.5, -0.5)
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.savefig(path, format="png")
    plt.close(figure)


def _found(axes: Any, records: Sequence[Record]) -> None:
    axes.set_title("from a pod's Ready condition to its first call", loc="left", fontsize=11)
    for row, record in enumerate(records):
        seen = measure(record)
        found = list(_numbered(record, seen))
        for place, (number, late) in enumerate(found):
            x = _NEVER if late is None else max(late, _AT_ONCE)
            y = row + 0.5 * (place / max(1, len(found) - 1) - 0.5)
            axes.plot(x, y, "x" if late is None else "o", color=color(number), markersize=7, alpha=0.9, clip_on=False)
        middle = median(seen)
        if middle is not None:
            x = max(middle, _AT_ONCE)
            axes.plot([x, x], [row - 0.38, row + 0.38], color="black", linewidth=2)
            axes.annotate(spoken(middle), (x, row - 0.36), xytext=(4, 0), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(_AT_ONCE / 1.5, _NEVER * 1.5)
    ticks = {_AT_ONCE: "before", 0.01: "10 ms", 0.1: "100 ms", 1: "1 s", 10: "10 s", 60: "1 min", _NEVER: "never"}
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8, color=GREY)
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_xlabel(
        "a dot is a pod, in the color that it has in its mode's picture; a black line is the median", fontsize=9, color=GREY
    )


def _numbered(record: Record, seen: Sequence[Seen]) -> Iterator[tuple[int, float | None]]:
    order = numbers(record)
    for line in seen:
        for pod, late in line.found.items():
            yield order[pod], late


def _failures(axes: Any, records: Sequence[Record]) -> None:
    axes.set_title("failed calls in each step", loc="left", fontsize=11)
    done = {step.act for record in records for step in record.steps}
    acts = [act for act in get_args(Act) if act in done]
    for row, record in enumerate(records):
        for line in measure(record):
            column = acts.index(line.step.act)
            failed = line.failures
            axes.add_patch(
                Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, color=FAILED if failed else "#cfe8dc", alpha=0.75, linewidth=0)
            )
            axes.text(column, row, f"{failed}", ha="center", va="center", fontsize=10, fontweight="bold" if failed else "normal")
    axes.set_xlim(-0.5, len(acts) - 0.5)
    axes.set_xticks(range(len(acts)), acts, fontsize=8, rotation=30, ha="right", color=GREY)
    axes.tick_params(length=0)
