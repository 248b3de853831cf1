"""The story as a picture: a lane for each server, how many calls it gets, when it runs, and what was changed when."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

from .pair import Result  # noqa: E402
from .servers import Server  # noqa: E402
from .story import Step, Story  # noqa: E402
from .table import COLOURS  # noqa: E402

BIN = 0.2
"""Seconds that one point of the picture covers."""
_GREY = "#555555"
_RUNS = "#e9e9e9"
_FAILED = "#D55E00"


def draw(path: Path, title: str, story: Story) -> None:
    """Write a PNG of a story that has ended. Raises OSError."""
    begin, end = story.steps[0].began, story.steps[-1].ended
    figure, lanes = plt.subplots(len(story.servers), 1, sharex=True, figsize=(11, 5.4), dpi=130, layout="constrained")
    for axes, server in zip(lanes, story.servers, strict=True):
        _lane(axes, server, story, begin, end)
    for step in story.steps:
        _mark(lanes, step, begin, [server.name for server in story.servers])
    failed = _failures(lanes[-1], story.results, begin)
    lanes[-1].set_xlabel("seconds")
    figure.supylabel("calls a second", fontsize=9)
    figure.suptitle("\n".join(textwrap.wrap(title, 105)), x=0.01, ha="left", fontsize=12, fontweight="bold")
    legend = [Patch(color=_RUNS, label="the server runs"), Patch(facecolor=_RUNS, edgecolor=_GREY, hatch="////", linewidth=0, label="it drains")]
    if failed:
        legend.append(Line2D([], [], color=_FAILED, marker="x", linestyle="", label=f"{failed} failed calls"))
    figure.legend(handles=legend, loc="outside lower right", ncols=len(legend), fontsize=8, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def _lane(axes: Axes, server: Server, story: Story, begin: float, end: float) -> None:
    """One server: grey while its process runs, hatched while it drains, its calls on top."""
    for life in server.lives:
        until = end if life.ended is None else life.ended
        axes.axvspan(max(0.0, life.began - begin), until - begin, color=_RUNS, linewidth=0)
        if life.draining is not None:
            axes.axvspan(life.draining - begin, until - begin, facecolor="none", edgecolor=_GREY, hatch="////", linewidth=0, alpha=0.5)
    count = int((end - begin) / BIN)
    rates = [0.0] * count
    for result in story.results:
        index = int((result.started - begin) / BIN)
        if result.server == server.name and 0 <= index < count:
            rates[index] += 1 / BIN
    colour = COLOURS[server.name]
    axes.stairs(rates, [BIN * edge for edge in range(count + 1)], fill=True, color=colour, alpha=0.85)
    axes.set(xlim=(0, end - begin), ylim=(0, 1.1 * story.rate), yticks=(0, story.rate / 2, story.rate))
    axes.tick_params(labelsize=8, colors=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.set_ylabel(server.name, rotation=0, ha="right", va="center", color=colour, fontweight="bold", labelpad=8)


def _mark(lanes: Sequence[Axes], step: Step, begin: float, names: Sequence[str]) -> None:
    """A line through all lanes at the change, its name on top, and in the server's lane how long it took to be seen."""
    moment = (step.began if step.changed is None else step.changed) - begin
    lanes[0].annotate(step.title, (moment, 1), xycoords=lanes[0].get_xaxis_transform(), xytext=(3, 4), textcoords="offset points", fontsize=9)
    if step.changed is None:
        return
    for axes, name in zip(lanes, names, strict=True):
        own = name == step.server
        axes.axvline(moment, color="black" if own else _GREY, linewidth=1.6 if own else 0.8, linestyle="-" if own else (0, (3, 3)))


def _failures(axes: Axes, results: Sequence[Result], begin: float) -> int:
    failed = [result.started - begin for result in results if result.code != "OK"]
    axes.plot(failed, [0.0] * len(failed), "x", color=_FAILED, markersize=7, clip_on=False, zorder=5)
    return len(failed)
