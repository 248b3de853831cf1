"""`python -m benchmarks`: the table, and the same as JSON. `python -m benchmarks stress`: the long runs."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from . import cpu_per_rpc, first_rpc, registries, server_interceptors, stress, update_cost, zones
from .report import Row, as_json, table

PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "cpu": cpu_per_rpc.measure,
    "update": update_cost.measure,
    "first": first_rpc.measure,
    "server": server_interceptors.measure,
    "registries": registries.measure,
    "zones": zones.measure,
}


_HEAD = """# Measurements

What discovery costs and how fast it is, beside a peer in the same run where there is one. This page is written by
`python -m benchmarks --page docs/benchmarks.md`; `make bench` prints the same for your machine, `make stress` makes the long runs.
An update swaps one endpoint. Goals are promises; a missed one is shown as it is.
"""


def main() -> int:
    """Status 1 where a long run failed; a missed goal is shown, not punished: this machine may be busy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("part", nargs="?", choices=[*PARTS, "stress"], help="only this one")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the run with changes takes (300)")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"), help="where the figures go")
    parser.add_argument("--page", type=Path, help="write the table as a page of the documentation, such as docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.part == "stress":
        failed = 0
        for promise, held, figures in stress.run(arguments.seconds):
            print(f"{'held  ' if held else 'BROKEN'}  {promise}\n        {figures}", flush=True)
            failed += not held
        return 1 if failed else 0
    rows: list[Row] = []
    for name in [arguments.part] if arguments.part else PARTS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        rows += PARTS[name]()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, grpcio {grpc.__version__}"
    print("\n".join([machine, "", *table(rows)]))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "rows": as_json(rows)}, indent=2) + "\n")
    if arguments.page:
        arguments.page.write_text("\n".join([_HEAD, machine + ".", "", *table(rows), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
