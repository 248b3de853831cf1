"""Timelines of servers as a picture: a row for each, how many calls it gets, when it runs, and what was changed when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

GREY = "#555555"
FAILED = "#D55E00"
_RUNS = "#e9e9e9"
_BESIDE, _LETTER = 1.6, 0.085
"""Inches: what names and numbers take on the left, and a letter of a mark's name."""

State = Literal["runs", "drains"]


@dataclass(frozen=True)
class Timeline:
    """One server. Seconds since the picture's begin; rates are calls a second between two edges.

    states: from when until when it ran and drained.
    """

    name: str
    color: str
    edges: Sequence[float]
    rates: Sequence[float]
    states: Sequence[tuple[State, float, float]] = ()


@dataclass(frozen=True)
class Mark:
    """A change: its name on top, a line through all rows where `line`, and a line and a note in the rows of the servers that it concerns."""

    title: str
    at: float
    line: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)


def draw(
    path: Path,
    title: str,
    timelines: Sequence[Timeline],
    marks: Sequence[Mark],
    failed: Sequence[float],
    end: float,
    *,
    most: float = 0.0,
    runs: str = "runs",
    width: float = 11,
    height: float = 1.3,
) -> None:
    """Write a PNG of `end` seconds. Raises OSError.

    failed: the moments of failed calls.   most: the highest rate that can be seen, else that of all.   runs: what a server does
    where its row is grey.   width, height: inches, the
    height is a row's.
    """
    top = 1.4 * (most or max(1.0, *(rate for timeline in timelines for rate in timeline.rates)))
    figure, grid = plt.subplots(
        len(timelines),
        1,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(width, height * len(timelines)),
        dpi=140,
        layout="constrained",
    )
    places = dict(zip((timeline.name for timeline in timelines), grid[:, 0], strict=True))
    for timeline in timelines:
        axes = places[timeline.name]
        _states(axes, timeline)
        axes.stairs(timeline.rates, timeline.edges, fill=True, color=timeline.color, alpha=0.9)
        axes.set(xlim=(0, end), ylim=(0, top))
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(labelsize=8, colors=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#bbbbbb")
        axes.set_ylabel(timeline.name, rotation=0, ha="right", va="center", color=timeline.color, fontweight="bold", labelpad=8)
    for mark, row in zip(marks, _rows(marks, end / (width - _BESIDE)), strict=True):
        _mark(places, mark, row)
    first, last = grid[0, 0], grid[-1, 0]
    first.annotate(
        "calls/s",
        (0, 1),
        xycoords="axes fraction",
        xytext=(-6, 5),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=GREY,
    )
    last.set_xlabel("seconds", fontsize=9, color=GREY)
    last.plot(failed, [0.0] * len(failed), "x", color=FAILED, markersize=7, clip_on=False, zorder=5)
    figure.legend(handles=_legend(len(failed), runs), loc="upper right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.1)
    plt.close(figure)


def _states(axes: Axes, timeline: Timeline) -> None:
    """Grey while the server runs, hatched while it drains."""
    for state, begin, until in timeline.states:
        if state == "runs":
            axes.axvspan(begin, until, color=_RUNS, linewidth=0)
        else:
            axes.axvspan(begin, until, facecolor="none", edgecolor=GREY, hatch="////", linewidth=0, alpha=0.5)


def _rows(marks: Sequence[Mark], inch: float) -> list[int]:
    """How many lines above the rows each name stands, so that none meets another; `inch` is how many seconds one shows."""
    ends: list[float] = []  # of the last name in each row
    rows = []
    for mark in marks:
        row = next((row for row, end in enumerate(ends) if end <= mark.at), len(ends)) if mark.title else 0
        rows.append(row)
        if mark.title:
            ends[row : row + 1] = [mark.at + (len(mark.title) + 2) * _LETTER * inch]
    return rows


def _mark(places: Mapping[str, Axes], mark: Mark, row: int) -> None:
    """A line through all rows at the change, its name on top, and in the server's own row how soon it was seen."""
    above = next(iter(places.values()))
    above.annotate(
        mark.title,
        (mark.at, 1),
        xycoords=above.get_xaxis_transform(),
        xytext=(3, 5 + 13 * row),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
    )
    for name, axes in places.items():
        if name in mark.notes:
            axes.axvline(mark.at, color="black", linewidth=1.6)
            _note(axes, mark.at, mark.notes[name])
        elif mark.line:
            axes.axvline(mark.at, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))


def _note(axes: Axes, at: float, text: str) -> None:
    """Beside its line; on the left of it near the right end."""
    left = at > 0.85 * axes.get_xlim()[1]
    axes.annotate(
        text,
        (at, 0.94),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=8,
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )


def _legend(failed: int, runs: str) -> list[Artist]:
    return [
        Patch(color=_RUNS, label=runs),
        Patch(facecolor=_RUNS, edgecolor=GREY, hatch="////", linewidth=0, label="drains"),
        Line2D([], [], color=FAILED, marker="x", linestyle="", label=f"{failed} failed calls"),
    ]
