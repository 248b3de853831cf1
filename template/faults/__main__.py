"""`python -m faults`: every fault that can be tried here, one after the other, as a table and as JSON."""

import argparse
import asyncio
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import grpc

from . import endings, load, machine, registries, servers  # noqa: F401
from .catalogue import FAULTS, Fault, Row
from .page import page
from .trial import Trial


async def tried(fault: Fault) -> Row:
    """One fault, on surroundings of its own."""
    try:
        async with Trial(fault) as trial:
            return await fault.run(trial)
    except Exception as error:  # what kept it from being tried is no promise that held, and the others go on
        return Row(fault.name, fault.promise, False, note=f"{type(error).__name__}: {error}")


def main() -> int:
    """Status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m faults", description="What production does to the pair, done on purpose.")
    parser.add_argument("names", nargs="*", help="only faults whose name holds one of these")
    parser.add_argument("--list", action="store_true", help="say what there is, and what each needs")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--page", type=Path, help="write the table as a page of the documentation")
    arguments = parser.parse_args()
    chosen = [each for each in FAULTS if not arguments.names or any(name in each.name for name in arguments.names)]
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    for each in chosen:
        missing = "; ".join(each.missing())
        if arguments.list or missing:
            print(f"{'skipped' if missing else 'ready  '}  {each.name}{f': {missing}' if missing else ''}", flush=True)
            skipped.append((each.name, missing))
            continue
        row = asyncio.run(tried(each))
        rows.append(row)
        after = "" if row.recovered is None else f", over after {row.recovered:.1f} s"
        print(
            f"{'held   ' if row.held else 'BROKEN '}  {row.fault}: {row.failed} of {row.calls} failed{after}. {row.note}",
            flush=True,
        )
        print(f"         status: {row.status}\n         log: {row.log}", flush=True)
    if arguments.list:
        return 0
    here = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, grpcio {grpc.__version__}"
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"machine": here, "rows": [asdict(row) for row in rows], "skipped": dict(skipped)}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    if arguments.page:
        arguments.page.write_text(page(rows, skipped, here))
    return 1 if any(not row.held for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
