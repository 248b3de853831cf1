"""`python -m lab.experiment`: run the scenario in every mode on the cluster, write what was seen, check what was promised.

Status 0 if all held, 1 if not, 2 if a mode could not be run, 130 if it was ended by a signal.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from rich.console import Console
    from rich.table import Table

    from lab.arguments import finish, number
    from lab.project import ProjectError, add_arguments, chosen

    from .assertions import check
    from .cluster import Cluster, ExperimentError, Site
    from .measure import measure
    from .modes import MODES
    from .record import Record
    from .results import rewrite, write
    from .scenario import Options, Scenario
    from .wording import spoken
except ModuleNotFoundError as error:
    print(
        f"experiment: {error.name} is not installed here; `make experiment` installs what it needs, and runs it", file=sys.stderr
    )
    raise SystemExit(2) from None


def run(arguments: argparse.Namespace, console: Console) -> int:
    """All modes in turn; the status."""
    project = chosen(arguments, "experiment")
    cluster = Cluster(project, arguments.namespace or f"{project.slug}-experiment")
    try:
        console.print(f"namespace {cluster.namespace} of {cluster.about()}", highlight=False, markup=False, soft_wrap=True)
        if arguments.dry_run:
            console.print(
                f"would deploy there, change, break and undeploy: {', '.join(arguments.modes)}", highlight=False, soft_wrap=True
            )
            return 0
        with cluster.present():
            return _run_modes(arguments, console, cluster)
    except ExperimentError as error:
        console.print(f"experiment: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2


def _run_modes(arguments: argparse.Namespace, console: Console, cluster: Cluster) -> int:
    site = Site(arguments.stop_api, arguments.start_api, arguments.restart_dns)
    options = Options(arguments.rate, arguments.outage, arguments.refresh, arguments.dns_ttl, arguments.quick)
    status, begun = 0, time.monotonic()
    for name in arguments.modes:
        scenario = Scenario(cluster, MODES[name], site, options, _progress(console, name, begun))
        try:
            record = scenario.run()
        except ExperimentError as error:
            console.print(f"experiment: {name}: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
            status = 2
            continue
        status = max(status, 0 if _report(console, record) else 1)
        write(arguments.results, record)
        rewrite(arguments.results)
    return status


def _progress(console: Console, mode: str, begun: float) -> Callable[[str], None]:
    def say(what: str) -> None:
        console.print(f"{time.monotonic() - begun:5.0f} s  {mode:<12}  {what}", highlight=False, markup=False, soft_wrap=True)

    return say


def _report(console: Console, record: Record) -> bool:
    """Print what was seen in one mode, and what was not as promised; returns whether all was."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("step", "calls", "failed", "who served", "new pods' first call"):
        table.add_column(heading, justify="right" if heading in ("calls", "failed") else "left", no_wrap=True)
    for line in measure(record):
        found = ["never" if late is None else spoken(late) for late in line.found.values()]
        table.add_row(
            line.step.title, str(line.calls), str(line.failures), " ".join(map(str, line.share.values())), ", ".join(found)
        )
    console.print(table)
    outcomes = zip([*(step.title for step in record.steps), "whole"], check(record), strict=True)
    broken = [(where, outcome.broken) for where, outcome in outcomes if outcome.broken]
    for where, what in broken:
        console.print(f"✗ {where}: {what}", style="red", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"✓ {record.mode}: as expected" if not broken else f"✗ {record.mode}: not as expected", style="bold", highlight=False
    )
    return not broken


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.experiment", description="Pods come and go on the cluster while a client calls, in every mode."
    )
    add_arguments(parser)
    parser.add_argument(
        "--namespace", default="", help="where it is deployed, and removed again (default: the project's name and -experiment)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("build/experiment-results"), help="the folder that tables, pictures and data go to"
    )
    parser.add_argument("--modes", type=_modes, default=list(MODES), help=f"some of {','.join(MODES)}")
    parser.add_argument("--quick", action="store_true", help="the short scenario: no part of the cluster itself is disturbed")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--rate", type=number(10, 2000), default=200.0, help="calls a second (200)")
    parser.add_argument("--outage", type=number(1, 600), default=60.0, help="seconds for which the API server is stopped (60)")
    parser.add_argument(
        "--refresh", type=number(0.1, 600), default=5.0, help="the setting DISCOVERY__REFRESH of the deployment, seconds (5)"
    )
    parser.add_argument(
        "--dns-ttl", type=number(0, 600), default=30.0, help="for how long the cluster's DNS gives the same answer (30)"
    )
    for name, what in (
        ("STOP_API", "stops the API server"),
        ("START_API", "starts it again"),
        ("RESTART_DNS", "restarts CoreDNS"),
    ):
        parser.add_argument(
            f"--{name.lower().replace('_', '-')}",
            default=os.environ.get(name, ""),
            metavar="COMMAND",
            help=f"what {what} (${name}); without it that step is left out",
        )
    arguments = parser.parse_args()
    if bool(arguments.stop_api) != bool(arguments.start_api):
        parser.error("--stop-api and --start-api (STOP_API, START_API) belong together; give both or none")
    existing = next(path for path in (arguments.results, *arguments.results.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        parser.error(f"--results {arguments.results}: no file can be written there; name another")
    finish("experiment", lambda: run(arguments, Console()), ProjectError)


def _modes(text: str) -> Any:
    """An argument's type: some of the modes, separated by commas."""
    names, known = [name for name in text.replace(",", " ").split() if name], list(MODES)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"'{name}' is no mode; there are {', '.join(known)}")
    return names or known


if __name__ == "__main__":
    main()
