"""The story as a picture: calls per server over time, and what happened when."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from .pair import Result  # noqa: E402
from .story import Step  # noqa: E402
from .table import COLOURS  # noqa: E402

BIN = 0.25
"""Seconds that one point of the picture covers."""


def draw(path: Path, title: str, steps: Sequence[Step], results: Sequence[Result]) -> None:
    """Write a PNG."""
    begin = min(step.began for step in steps)
    end = max(step.ended for step in steps)
    count = max(1, int((end - begin) / BIN))
    times = [index * BIN for index in range(count)]
    series = {name: [0.0] * count for name in COLOURS}
    failures: Counter[int] = Counter()
    for result in results:
        index = int((result.started - begin) / BIN)
        if 0 <= index < count:
            if result.server in series:
                series[result.server][index] += 1 / BIN
            elif result.code != "OK":
                failures[index] += 1
    figure, axes = plt.subplots(figsize=(11, 4.2), dpi=130, layout="constrained")
    axes.stackplot(times, list(series.values()), labels=list(series), colors=list(COLOURS.values()), step="post", linewidth=0)
    top = max(1.0, max(sum(values) for values in zip(*series.values(), strict=True)))
    for step in steps:
        moment = (step.changed if step.changed is not None else step.began) - begin
        if step.server:
            axes.axvline(moment, color="black", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(f"{step.name} {step.server}".strip(), (moment, top * 1.03), xytext=(4, 0), textcoords="offset points", fontsize=9)
    if failures:
        axes.plot([index * BIN for index in failures], [top * 0.98] * len(failures), "x", color="red", markersize=7, label="failed calls")
    axes.set(xlim=(0, end - begin), ylim=(0, top * 1.12), xlabel="seconds", ylabel="calls per second, by server")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="lower right", ncols=5, fontsize=8, framealpha=0.9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
