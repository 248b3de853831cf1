"""The scenario as a picture: a row for each server, how many calls it gets, when it runs, and what was changed when."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from ..servers import Server
from ..timeline_plot import Mark, State, Timeline
from ..timeline_plot import draw as draw_timelines
from .scenario import Scenario
from .summary import Seen
from .table import COLORS, after

BIN = 0.25
"""Seconds that one bar covers, about: bars begin at the changes, so that none holds calls from before and after."""


def draw(path: Path, title: str, scenario: Scenario, seen: Sequence[Seen]) -> None:
    """Write a PNG of a scenario that has ended. Raises OSError."""
    begin, end = scenario.steps[0].began, scenario.steps[-1].ended
    moments = [(step.began if step.changed is None else step.changed) - begin for step in scenario.steps]
    edges = _edges(moments, end - begin)
    timelines = [
        Timeline(
            server.name,
            COLORS[server.name],
            edges,
            _rates([result.started - begin for result in scenario.results if result.server == server.name], edges),
            [(state, max(0.0, since - begin), until - begin) for state, since, until in _states(server, end)],
        )
        for server in scenario.servers
    ]
    marks = [
        Mark(
            line.step.title,
            moment,
            line=line.step.changed is not None,
            notes={line.step.server: after(line)} if line.step.server else {},
        )
        for line, moment in zip(seen, moments, strict=True)
    ]
    failed = [result.started - begin for result in scenario.results if result.code != "OK"]
    draw_timelines(path, title, timelines, marks, failed, end - begin)


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


def _states(server: Server, end: float) -> Iterator[tuple[State, float, float]]:
    """When the server's processes ran, and when they drained."""
    for life in server.lives:
        until = end if life.ended is None else life.ended
        yield "runs", life.began, until
        if life.draining is not None:
            yield "drains", life.draining, until
