"""Snapshots as text: tables, lines for changes, JSON. Uses rich if it is installed."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import printable
from .snapshot import Endpoint, Snapshot
from .status import Status

COLUMNS: tuple[tuple[str, Callable[[Endpoint], str]], ...] = (
    ("address", lambda endpoint: endpoint.authority),
    ("zone", lambda endpoint: endpoint.zone or "-"),
    ("weight", lambda endpoint: str(endpoint.weight)),
    ("health", lambda endpoint: endpoint.health.name.lower()),
    ("name", lambda endpoint: endpoint.name or "-"),
    ("node", lambda endpoint: endpoint.node or "-"),
)
"""The columns of a table: heading and text, which is still to be escaped. The last one is omitted if no endpoint has a node."""


class Ages:
    """Since when each endpoint has been unchanged, as far as this process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[str, int], tuple[Endpoint, float]] = {}

    def update(self, snapshot: Snapshot | None) -> None:
        """Update with the set in use."""
        now, before = self._clock(), self._since
        self._since = {
            endpoint[:2]: known if (known := before.get(endpoint[:2])) and known[0] == endpoint else (endpoint, now)
            for endpoint in (snapshot.endpoints if snapshot else ())
        }

    def __call__(self, endpoint: Endpoint) -> str:
        """Its age, as text."""
        seconds = int(self._clock() - self._since[endpoint[:2]][1])
        return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


_OFTEN_EMPTY = ("name", "node", "hints", "metadata", "node_hints")


def as_json(status: Status) -> str:
    """One line of JSON: the target, its state, and every endpoint."""
    listed = [
        {name: value for name, value in endpoint._asdict().items() if value or name not in _OFTEN_EMPTY}
        | {"health": endpoint.health.name.lower()}
        for endpoint in _sorted(status.snapshot)
    ]
    facts: dict[str, Any] = {
        "target": status.target,
        "state": status.state,
        "endpoints": listed,
        "problems": list(status.problems),
    }
    if status.last_error:
        facts["error"] = status.last_error
    return json.dumps(facts)


def table(status: Status) -> str:
    """A plain table with aligned columns."""
    columns = _columns(status.snapshot)
    rows = [tuple(heading.upper() for heading, _ in columns)]
    rows += [tuple(printable(read(endpoint)) for _, read in columns) for endpoint in _sorted(status.snapshot)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def changes(before: Snapshot | None, after: Snapshot) -> Iterator[str]:
    """A line for every endpoint that was added (+), removed (-), or changed (~)."""
    old = {endpoint[:2]: endpoint for endpoint in before.endpoints} if before else {}
    new = {endpoint[:2]: endpoint for endpoint in after.endpoints}
    for key in sorted(old.keys() | new.keys()):
        if key not in new:
            yield printable(f"- {old[key].authority}")
        elif key not in old:
            yield f"+ {_described(new[key])}"
        elif old[key] != new[key]:
            yield f"~ {_described(new[key])}"


def summary(status: Status) -> str:
    """One line: the number of endpoints, their age, and errors."""
    count = len(status.snapshot) if status.snapshot else 0
    via = f" via {status.via}" if status.via else ""
    parts = [f"{status.target}{via}: {count} endpoint{'' if count == 1 else 's'}, {status.state}"]
    if status.synced_at is not None:
        parts.append(f"synced {time.monotonic() - status.synced_at:.0f} s ago")
    parts += [reason for reason in (status.last_error, status.suspicious, *status.problems) if reason]
    return printable("; ".join(parts))


def live(status: Status, ages: Ages) -> Any:
    """The table and the summary as a rich renderable; `ages` is kept up to date. Raises ImportError without rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {"healthy": "green", "unknown": "green", "unhealthy": "red", "draining": "yellow"}
    shown = Table(box=None, padding=(0, 2, 0, 0))
    ages.update(status.snapshot)
    columns: list[tuple[str, Callable[[Endpoint], str]]] = [*_columns(status.snapshot), ("age", ages)]
    for heading, _ in columns:
        shown.add_column(heading.upper(), header_style="bold")
    for endpoint in _sorted(status.snapshot):
        shown.add_row(*(Text(printable(read(endpoint)), style=colours.get(read(endpoint), "")) for _, read in columns))
    return Group(shown, Text(), Text(summary(status), style="green" if status.state == "synced" else "yellow"))


def _columns(snapshot: Snapshot | None) -> tuple[tuple[str, Callable[[Endpoint], str]], ...]:
    listed = snapshot.endpoints if snapshot else frozenset()
    return COLUMNS if any(endpoint.node for endpoint in listed) else COLUMNS[:-1]


def _sorted(snapshot: Snapshot | None) -> list[Endpoint]:
    return sorted(snapshot.endpoints) if snapshot else []


def _described(endpoint: Endpoint) -> str:
    details = [endpoint.health.name.lower(), f"zone {endpoint.zone}" if endpoint.zone else "", endpoint.name]
    return printable("  ".join([endpoint.authority, *filter(None, details)]))
