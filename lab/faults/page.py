"""Rows in, a page of Markdown out."""

import re
from collections.abc import Iterator, Sequence

from .catalog import Row

_HEAD = """# Faults, and what each costs

What production does to the pair, done on purpose: real server processes, registries and networks, 100 calls a second with the default
settings, and where a server is ejected, with outlier detection that needs 5 calls in 5 s. `make faults` runs all of it and writes this page. *Failed* counts calls from the fault on; *over after* is how long after the fault
the last call began that failed or took more than a second. The registry keeps listing a server that has died or hangs, unless said
otherwise: what is measured is gRPC and the pair, not how fast a dead server is delisted.
"""

LONGEST = 170
"""Letters of a log line that are shown."""


def page(rows: Sequence[Row], skipped: Sequence[tuple[str, str]], machine: str) -> str:
    """The whole page."""
    return "\n".join([_HEAD, f"{machine}.", "", *_table(rows), *_said(rows), *_left_out(skipped), ""])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| fault | promise | failed | over after | held | besides |"
    yield "|---|---|---:|---:|---|---|"
    for row in rows:
        after = "" if row.recovered is None else f"{row.recovered:.1f} s"
        failed = f"{row.failed} of {row.calls} {row.codes}".rstrip() if row.calls else ""
        yield f"| {row.fault} | {row.promise} | {failed} | {after} | {'yes' if row.held else '**no**'} | {_cell(row.note)} |"


def _said(rows: Sequence[Row]) -> Iterator[str]:
    yield from (
        "",
        "## The client's status and log",
        "",
        "| fault | `discovery.status` | warnings and errors |",
        "|---|---|---|",
    )
    for row in rows:
        yield f"| {row.fault} | {_cell(row.status)} | {_cell(row.log)} |"


def _left_out(skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
    if skipped:
        yield from ("", "## Not tried in this run", "")
    for name, why in skipped:
        yield f"- {name}: {why}"


def _cell(text: str) -> str:
    text = re.sub(r"(?<=\s)/[^ ,;:]*/(?=[^ ,;:/]+)", "", re.sub(r"\b[0-9a-f]{32}\b", "name", text))  # no path of this machine
    return (text if len(text) <= LONGEST else f"{text[:LONGEST]} ...").replace("|", "\\|").replace("\n", " ")
