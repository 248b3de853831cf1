"""`python -m lab.demo`: run the scenario, show it, check what was promised.

Status 0 if it held, 1 if not, 2 if it could not run, 130 if it was ended by a signal.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

try:
    from rich.console import Console

    from ..arguments import number, setting
    from ..project import FRESH, Project, ProjectError, add_arguments, chosen
    from ..servers import ServerError
    from .assertions import SLACK, check
    from .modes import MODES
    from .picture import draw
    from .scenario import Scenario
    from .summary import as_json, measure
    from .table import Display, show_summary
except ModuleNotFoundError as error:
    print(f"demo: {error.name} is not installed here; `make demo` installs what the demo needs, and runs it", file=sys.stderr)
    raise SystemExit(2) from None
except KeyboardInterrupt:
    raise SystemExit(130) from None


async def run(project: Project, arguments: argparse.Namespace) -> bool:
    """The whole demo; whether everything was as promised. Raises ServerError."""
    console = Console(stderr=arguments.json)
    scenario = Scenario(
        project,
        MODES[arguments.mode](),
        arguments.rate,
        arguments.seconds_per_step,
        retries=not arguments.no_retries,
        settings=dict(arguments.setting),
    )
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if task is not None and (number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN):  # nohup
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    showing = asyncio.create_task(Display(scenario, arguments.mode, console).follow())
    try:
        await scenario.run()
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
    seen = measure(scenario.steps, scenario.results)
    outcomes = check(scenario.mode.promise, seen, arguments.slack)
    draw(arguments.picture, f"MODE={arguments.mode}: {scenario.mode.promise.text}", scenario, seen)
    summary = as_json(seen, outcomes)
    if arguments.json:
        about = {
            "project": project.slug,
            "mode": arguments.mode,
            "target": scenario.mode.target,
            "rate": arguments.rate,
            "seconds_per_step": arguments.seconds_per_step,
        }
        print(json.dumps({**about, **summary, "picture": str(arguments.picture)}, indent=2))
    else:
        show_summary(console, scenario, arguments.mode, seen, outcomes)
        console.print(f"picture: {arguments.picture}", highlight=False, soft_wrap=True)
    return bool(summary["held"])


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.demo",
        description="Servers come and go while a client calls: who serves, what fails, how soon?",
        epilog="The client is the lab's own and calls health's Check, so any generated project can be shown.",
    )
    add_arguments(parser)
    parser.add_argument("--mode", choices=list(MODES), default="dns", help="how the client learns who serves (dns)")
    parser.add_argument("--rate", type=number(1, 2000), default=200.0, help="calls a second (200)")
    parser.add_argument(
        "--seconds-per-step", type=number(0.5, 600), default=7.0, help="how long each of the five steps is watched (7)"
    )
    parser.add_argument(
        "--slack",
        type=number(0, 60),
        default=SLACK,
        help=f"seconds that a first call may be late; more on a busy machine ({SLACK:g})",
    )
    parser.add_argument(
        "--no-retries", action="store_true", help="let failed calls fail; with --rate 1000 this shows what retries are for"
    )
    parser.add_argument(
        "--setting",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the servers, without the project's prefix, as in SERVER__DRAIN__WAIT=3s; may be repeated",
    )
    FRESH.mkdir(exist_ok=True)
    picture = Path(os.path.relpath(FRESH / "demo.png"))
    parser.add_argument("--picture", type=Path, default=picture, help=f"where the picture goes ({picture})")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of tables; the lines go to standard error"
    )
    arguments = parser.parse_args()
    if arguments.picture.is_dir() or not os.access(arguments.picture.parent, os.W_OK):
        parser.error(f"--picture {arguments.picture}: no file can be written there; name another")
    logging.basicConfig(level=logging.ERROR)
    try:
        held = asyncio.run(run(chosen(arguments, "demo"), arguments))
    except (ProjectError, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, asyncio.CancelledError):  # the first, where the loop does not run yet
        raise SystemExit(130) from None
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
