"""What a person sees: a live table while the story runs, plain lines where there is no terminal, a summary at the end."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .modes import Promise
from .story import Story
from .summary import Line, held

COLOURS = {"server-1": "#0072B2", "server-2": "#E69F00", "server-3": "#009E73", "server-4": "#CC79A7"}
"""Okabe and Ito's, which colour-blind people can tell apart; the picture uses the same."""

_STATES = {"serving": "green", "starting": "yellow", "draining": "yellow", "killed": "red", "stopped": "dim", "absent": "dim"}
_WIDTH = 40


async def follow(story: Story, console: Console) -> None:
    """Show the story until cancelled."""
    if not console.is_terminal:
        return await _lines(story, console)
    with Live(_frame(story), console=console, refresh_per_second=8, transient=True) as live:
        while True:
            await asyncio.sleep(0.125)
            live.update(_frame(story))


def _frame(story: Story) -> Group:
    now = time.monotonic()
    recent = Counter(result.server for result in story.results[-4000:] if result.server and result.started > now - 1)
    table = Table(title=story.mode.target, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("server", "left"), ("address", "left"), ("state", "left"), ("calls/s", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for server in story.servers:
        rate = recent[server.name]
        bar = Text("█" * round(_WIDTH * rate / max(story.rate, 1)), style=COLOURS[server.name])
        state = Text(server.state, style=_STATES.get(server.state, ""))
        table.add_row(server.name, server.authority, state, str(rate) if rate else "", bar)
    failed = sum(result.code != "OK" for result in story.results)
    elapsed = now - story.began if story.began else 0.0
    footer = Text.assemble(("▶ ", "bold"), (story.current, "bold"), f"   {elapsed:.0f} s   {len(story.results)} calls   ", (f"{failed} failed", "red" if failed else "green"))
    return Group(table, Text(), footer)


async def _lines(story: Story, console: Console) -> None:
    shown = 0
    while True:
        await asyncio.sleep(1.0)
        results, shown = story.results[shown:], len(story.results)
        served = Counter(result.server or result.code for result in results)
        who = "  ".join(f"{name} {count}" for name, count in sorted(served.items())) or "-"
        console.print(f"{time.monotonic() - story.began if story.began else 0:4.0f} s  {story.current:<20}  {who}", highlight=False)


def summarise(console: Console, mode: str, promise: Promise, lines: Sequence[Line]) -> None:
    """The table at the end, and whether the story held."""
    table = Table(title=f"MODE={mode}: {promise.text}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("step", "left"), ("server", "left"), ("seen after", "right"), ("calls", "right"), ("failed", "right"), ("who served", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for line in lines:
        who = "  ".join(f"{name.removeprefix('server-')}:{count}" for name, count in line.share.items())
        table.add_row(line.step, line.server, _seen(line), str(line.calls), Text(str(line.failed), style="red" if line.failed else "green"), who)
    console.print()
    console.print(table)
    for line in lines:
        if line.broken:
            console.print(f"[red]✗[/] {line.step}: {line.broken}", highlight=False)
    console.print("[green]✓ as expected[/]" if held(lines) else "[red]✗ not as expected[/]", highlight=False)


def _seen(line: Line) -> str:
    if not line.server:
        return ""
    if line.seconds is None:
        return "never called" if line.step in ("add", "bring back") else "left at once"
    what = "first" if line.step in ("add", "bring back") else "last"
    return f"{what} call {line.seconds * 1000:.0f} ms" if abs(line.seconds) < 1 else f"{what} call {line.seconds:.2f} s"
