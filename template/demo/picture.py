"""The story as a picture: a lane for each server, how many calls it gets, when it runs, and what was changed when."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .servers import Server
from .story import Story
from .summary import Seen
from .table import COLOURS, after

BIN = 0.25
"""Seconds that one bar covers, about: bars begin at the changes, so that none holds calls from before and after."""

_GREY = "#555555"
_RUNS = "#e9e9e9"
_FAILED = "#D55E00"


def draw(path: Path, title: str, story: Story, seen: Sequence[Seen]) -> None:
    """Write a PNG of a story that has ended. Raises OSError."""
    begin, end = story.steps[0].began, story.steps[-1].ended
    moments = [step.began if step.changed is None else step.changed for step in story.steps]
    edges = _edges([moment - begin for moment in moments], end - begin)
    rates = {
        server.name: _rates([result.started - begin for result in story.results if result.server == server.name], edges)
        for server in story.servers
    }
    top = 1.4 * max(1.0, *(rate for lane in rates.values() for rate in lane))

    figure, grid = plt.subplots(
        len(story.servers), 1, sharex=True, sharey=True, squeeze=False, figsize=(11, 5.2), dpi=140, layout="constrained"
    )
    lanes = dict(zip((server.name for server in story.servers), grid[:, 0], strict=True))
    for server in story.servers:
        axes = lanes[server.name]
        _lives(axes, server, begin, end)
        axes.stairs(rates[server.name], edges, fill=True, color=COLOURS[server.name], alpha=0.9)
        axes.set(xlim=(0, end - begin), ylim=(0, top))
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(labelsize=8, colors=_GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#bbbbbb")
        axes.set_ylabel(
            server.name, rotation=0, ha="right", va="center", color=COLOURS[server.name], fontweight="bold", labelpad=8
        )
    for line, moment in zip(seen, moments, strict=True):
        _mark(lanes, line, moment - begin)
    first, last = grid[0, 0], grid[-1, 0]
    first.annotate(
        "calls/s",
        (0, 1),
        xycoords="axes fraction",
        xytext=(-6, 5),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_GREY,
    )
    last.set_xlabel("seconds", fontsize=9, color=_GREY)
    _legend(last, [result.started - begin for result in story.results if result.code != "OK"])
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, format="png")
    plt.close(figure)


def _edges(moments: Sequence[float], end: float) -> list[float]:
    """Where bars begin, and where the last ends."""
    edges: list[float] = []
    for here, there in zip(moments, [*moments[1:], end], strict=True):
        count = max(1, round((there - here) / BIN))
        edges += [here + (there - here) * number / count for number in range(count)]
    return [*edges, end]


def _rates(times: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Calls a second in each bar; `times` are in order of their end, and nearly so of their begin."""
    ordered, rates, position = sorted(times), [], 0
    for here, there in pairwise(edges):
        first = position
        while position < len(ordered) and ordered[position] < there:
            position += 1
        rates.append((position - first) / (there - here))
    return rates


def _lives(axes: Axes, server: Server, begin: float, end: float) -> None:
    """Grey while the server's process serves, hatched while it drains."""
    for life in server.lives:
        until = end if life.ended is None else life.ended
        axes.axvspan(max(0.0, life.began - begin), until - begin, color=_RUNS, linewidth=0)
        if life.draining is not None:
            axes.axvspan(
                life.draining - begin, until - begin, facecolor="none", edgecolor=_GREY, hatch="////", linewidth=0, alpha=0.5
            )


def _mark(lanes: dict[str, Axes], line: Seen, moment: float) -> None:
    """A line through all lanes at the change, its name on top, and in the server's own lane how soon it was seen."""
    above = next(iter(lanes.values()))
    above.annotate(
        line.step.title,
        (moment, 1),
        xycoords=above.get_xaxis_transform(),
        xytext=(3, 5),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
    )
    if line.step.changed is None:
        return
    for name, axes in lanes.items():
        own = name == line.step.server
        axes.axvline(
            moment, color="black" if own else _GREY, linewidth=1.6 if own else 0.8, linestyle="-" if own else (0, (3, 3))
        )
        if own:
            axes.annotate(
                after(line),
                (moment, 0.94),
                xycoords=axes.get_xaxis_transform(),
                xytext=(5, 0),
                textcoords="offset points",
                va="top",
                fontsize=8,
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )


def _legend(axes: Axes, failed: Sequence[float]) -> None:
    handles: list[Artist] = [
        Patch(color=_RUNS, label="runs"),
        Patch(facecolor=_RUNS, edgecolor=_GREY, hatch="////", linewidth=0, label="drains"),
        Line2D([], [], color=_FAILED, marker="x", linestyle="", label=f"{len(failed)} failed calls"),
    ]
    axes.plot(failed, [0.0] * len(failed), "x", color=_FAILED, markersize=7, clip_on=False, zorder=5)
    axes.legend(handles=handles, loc="upper right", bbox_to_anchor=(1, -0.18), ncols=len(handles), fontsize=8, frameon=False)
