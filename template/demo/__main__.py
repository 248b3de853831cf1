"""`python -m demo`: run the story, show it, judge it. Status 0 if it held, 1 if not, 2 if it could not run."""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
from pathlib import Path

from rich.console import Console

from .modes import MODES
from .picture import draw
from .servers import DemoError
from .story import Story
from .summary import as_json, held, judge
from .table import follow, summarise


async def run(arguments: argparse.Namespace) -> bool:
    """The whole demo; tells whether everything was as promised."""
    console = Console(stderr=arguments.json)
    story = Story(MODES[arguments.mode](), arguments.rate, arguments.seconds)
    running = asyncio.create_task(story.run())
    showing = asyncio.create_task(follow(story, console))
    try:
        await running
    finally:
        for task in (running, showing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DemoError):
                await task
    promise = story.mode.promise
    lines = judge(story.steps, story.results, promise)
    draw(arguments.picture, f"Who serves: {arguments.mode}", story.steps, story.results)
    if arguments.json:
        print(json.dumps(as_json(arguments.mode, story.mode.target, promise, lines), indent=2))
    else:
        summarise(console, arguments.mode, promise, lines)
        console.print(f"picture: {arguments.picture}", highlight=False)
    return held(lines)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Servers come and go while a client calls.")
    parser.add_argument("--mode", choices=list(MODES), default="dns", help="how the client learns who serves")
    parser.add_argument("--rate", type=float, default=200.0, help="calls a second (200)")
    parser.add_argument("--seconds", type=float, default=7.0, help="how long each of the five steps is watched (7)")
    parser.add_argument("--picture", type=Path, default=Path("demo.png"), help="where the picture goes (demo.png)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    if not 0 < arguments.rate <= 2000 or not 0 < arguments.seconds <= 600:
        parser.error("--rate must be above 0 and at most 2000, --seconds above 0 and at most 600")
    logging.basicConfig(level=logging.ERROR)
    try:
        as_expected = asyncio.run(run(arguments))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0 if as_expected else 1)


if __name__ == "__main__":
    main()
