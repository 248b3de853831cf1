"""`python -m lab.faults`: every fault that can be tried here, one after the other, as a table and as JSON."""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import grpc

from ..project import Project, ProjectError, add_arguments, chosen
from . import load, machine, registries, servers, shutdown_faults
from .catalog import FAULTS, Fault, NotTriedError, Row
from .harness import Harness
from .page import page

PARTS = (servers, registries, machine, load, shutdown_faults)
ALL = sorted(FAULTS, key=lambda fault: [part.__name__ for part in PARTS].index(fault.run.__module__))
"""Every fault, in the order of the table."""


async def run(fault: Fault, project: Project) -> Row:
    """One fault, on surroundings of its own. Raises NotTriedError where the project's service has not what it needs."""
    try:
        async with Harness(fault, project) as harness:
            return await fault.run(harness)
    except NotTriedError:
        raise
    except Exception as error:  # what kept it from being tried is no promise that held, and the others go on
        return Row(fault.name, fault.promise, False, note=f"{type(error).__name__}: {error}")


def main() -> int:
    """Status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.faults", description="What production does to the pair, done on purpose."
    )
    add_arguments(parser)
    parser.add_argument("names", nargs="*", help="only faults whose name holds one of these")
    parser.add_argument("--list", action="store_true", help="say what there is, and what each needs")
    parser.add_argument("--json", type=Path, help="where the figures go; those of faults that are not tried now stay")
    parser.add_argument("--page", type=Path, help="write the table as a page of the documentation")
    arguments = parser.parse_args()
    selected = [each for each in ALL if not arguments.names or any(name in each.name for name in arguments.names)]
    rows: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    try:
        project = None if arguments.list else chosen(arguments, "faults")
    except ProjectError as error:
        parser.error(str(error))
    for each in selected:
        missing = "; ".join(each.missing())
        if project is None or missing:
            print(f"{'skipped' if missing else 'ready  '}  {each.name}{f': {missing}' if missing else ''}", flush=True)
            continue
        try:
            row = rows[each.name] = asyncio.run(run(each, project))
        except NotTriedError as error:
            skipped[each.name] = str(error)
            print(f"skipped  {each.name}: {error}", flush=True)
            continue
        after = "" if row.recovered is None else f", over after {row.recovered:.1f} s"
        codes = f" ({row.codes})" if row.codes else ""
        print(
            f"{'held   ' if row.held else 'BROKEN '}  {row.fault}: {row.failed} of {row.calls} failed{codes}{after}. {row.note}",
            flush=True,
        )
        print(f"         status: {row.status}\n         log: {row.log}", flush=True)
    if arguments.list:
        return 0
    known = _kept(arguments.json) | rows
    figures = [known[each.name] for each in ALL if each.name in known]
    if arguments.json:
        _keep(arguments.json, figures)
    if arguments.page:
        left_out = [
            (each.name, skipped.get(each.name) or "; ".join(each.missing()) or "left out")
            for each in ALL
            if each.name not in known
        ]
        arguments.page.write_text(page(figures, left_out, _here()))
    return 1 if any(not row.held for row in rows.values()) else 0


def _here() -> str:
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, grpcio {grpc.__version__}"


def _kept(path: Path | None) -> dict[str, Row]:
    """What an earlier run has written."""
    if path is None or not path.exists():
        return {}
    return {row["fault"]: Row(**row) for row in json.loads(path.read_text())["rows"]}


def _keep(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": _here(), "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
