"""`python -m lab.benchmarks [PART]`: the table, and the same as JSON; the parts `stress` and `soak` are the long runs."""

import argparse
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from ..project import ProjectError, add_arguments, chosen
from . import calls, client_process, registries, rolling_restart, server, soak, stress, zones
from .report import Row, as_json, from_json, table

PARTS = ("calls", "layers", "changes", "updates", "processes", "server", "zones", "outages", "rolling")
OF_DISCOVERY: dict[str, Callable[[bool], Iterator[Row]]] = {
    "calls": calls.measure,
    "layers": calls.measure_layers,
    "changes": registries.measure_changes,
    "updates": registries.measure_updates,
    "processes": client_process.measure,
    "zones": zones.measure,
    "outages": registries.measure_outages,
}


_HEAD = """# Measurements

What discovery costs, how fast it is and what it withstands, beside a peer in the same run where there is one. `make bench` measures
the same on your machine in about 20 minutes, `make bench PART=calls` one part of it; `make stress` and `make soak` make the long runs. All keep their
figures in `build/benchmarks.json`, from which `--page docs/benchmarks.md` writes this page.

An update swaps one endpoint. A figure with ± is the mean of several pairs of channels and its 95 % confidence interval. Goals are
promises; a missed one is shown as it is.
"""


LONG = ("stress", "soak")


def _long(outcomes: Iterator[stress.Outcome]) -> Iterator[Row]:
    """The long runs, each printed when it has ended."""
    for outcome in outcomes:
        print(
            f"{'held  ' if outcome.held else 'BROKEN'}  {outcome.promise} {' '.join(outcome.wrong[:3])}",
            file=sys.stderr,
            flush=True,
        )
        yield from outcome.rows


def main() -> int:
    """Status 1 where a long run failed; a missed goal of another part is shown and no failure: this machine may be busy."""
    parser = argparse.ArgumentParser(prog="python -m lab.benchmarks")
    add_arguments(parser)
    parser.add_argument("part", nargs="?", choices=[*PARTS, *LONG], help="only this one; by itself, all but stress and soak")
    parser.add_argument(
        "--quick", action="store_true", help="a few samples of each, to see that it runs; its figures say nothing"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long a long run goes on (600)")
    parser.add_argument("--json", type=Path, help="where the figures go, beside those of other parts (build/benchmarks.json)")
    parser.add_argument(
        "--page", type=Path, help="write all that is there as a page of the documentation, such as docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    path = arguments.json or Path("build/benchmarks-quick.json" if arguments.quick else "build/benchmarks.json")
    project = functools.cache(lambda: chosen(arguments, "benchmarks"))
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        **{name: functools.partial(part, arguments.quick) for name, part in OF_DISCOVERY.items()},
        "server": lambda: server.measure(project()),
        "rolling": lambda: rolling_restart.measure(project(), *((1, 1000) if arguments.quick else ())),
        "stress": lambda: _long(stress.run(arguments.seconds)),
        "soak": lambda: _long(iter([soak.run(project(), arguments.seconds)])),
    }
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, grpcio {grpc.__version__}"
    kept = _kept(path, machine)
    measured: list[Row] = []
    for name in [arguments.part] if arguments.part else PARTS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        try:
            kept[name] = list(parts[name]())
        except ProjectError as error:
            parser.error(str(error))
        measured += kept[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "parts": {part: as_json(kept[part]) for part in (*PARTS, *LONG) if part in kept}}
        path.write_text(json.dumps(content, indent=2) + "\n")
    print("\n".join([machine, "", *table(measured)]))
    if arguments.page:
        everything = [each for part in (*PARTS, *LONG) for each in kept.get(part, ())]
        arguments.page.write_text("\n".join([_HEAD, machine + ".", "", *table(everything), ""]))
    return 1 if arguments.part in LONG and any(each.met is False for each in measured) else 0


def _kept(path: Path, machine: str) -> dict[str, list[Row]]:
    """The figures of other runs on the same machine, by part."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    if content["machine"] != machine or "parts" not in content:
        return {}
    return {part: from_json(rows) for part, rows in content["parts"].items()}


if __name__ == "__main__":
    sys.exit(main())
