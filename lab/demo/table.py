"""What a person sees: a live table while the scenario runs, plain lines where there is no terminal, a summary at the end."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..outcome import Outcome
from .scenario import PLAN, Scenario
from .summary import Seen

COLORS = {"server-1": "#0072B2", "server-2": "#E69F00", "server-3": "#009E73", "server-4": "#CC79A7"}
"""Okabe and Ito's, which color-blind people can tell apart; the picture uses the same."""

_STATES = {"serving": "green", "starting": "yellow", "draining": "yellow", "killed": "red"}
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR, _SHARES = 14, 22


class Display:
    """Shows a scenario while it runs: eight frames a second on a terminal, else a line a second."""

    def __init__(self, scenario: Scenario, mode: str, console: Console) -> None:
        self._scenario = scenario
        self._mode = mode
        self._console = console
        self._counted = 0
        self._history: dict[str, Counter[int]] = {}  # by server, by second since the scenario began

    async def follow(self) -> None:
        """Until cancelled."""
        if not self._console.is_terminal:
            return await self._lines()
        with Live(self._frame(), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(0.125)
                live.update(self._frame(), refresh=True)

    def _count(self) -> int:
        """Take in the calls that are new; returns how many whole seconds are in the hiscenario."""
        scenario = self._scenario
        if scenario.began is None:
            return 0
        for result in scenario.results[self._counted :]:
            self._history.setdefault(result.server or result.code, Counter())[int(result.started - scenario.began)] += 1
            self._counted += 1
        return int(time.monotonic() - scenario.began)

    def _frame(self) -> Group:
        scenario = self._scenario
        second = self._count()
        since = time.monotonic() - 1
        recent: Counter[str] = Counter()
        for result in reversed(scenario.results):
            if result.started < since:
                break
            recent[result.server] += 1
        width = max(10, min(60, self._console.width - 52))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("server", "address", "state", "calls/s", "", "until now"):
            table.add_column(heading, justify="right" if heading == "calls/s" else "left", no_wrap=True)
        for server in scenario.servers:
            color, rate = COLORS[server.name], recent[server.name]
            past = self._history.get(server.name, Counter())
            table.add_row(
                Text(server.name, style=color),
                server.address,
                Text(server.state, style=_STATES.get(server.state, "dim")),
                str(rate) if rate else Text("0", style="dim"),
                Text("█" * min(_BAR, round(_BAR * rate / scenario.rate)) or " ", style=color),
                Text(
                    "".join(_block(past[moment], scenario.rate) for moment in range(max(0, second - width), second)), style=color
                ),
            )
        return Group(_rule(self._mode, scenario.mode.target), table, self._progress())

    def _progress(self) -> Text:
        scenario = self._scenario
        if scenario.began is None:
            return Text("\nstarting three servers", style="bold")
        failed = sum(sum(past.values()) for name, past in self._history.items() if name not in COLORS)
        text = Text("\n")
        for number, (act, server) in enumerate(PLAN):
            done = number - len(scenario.steps)
            mark, style = ("✓", "green") if done < 0 else ("▶", "bold") if done == 0 else ("·", "dim")
            text.append(f"{mark} {act} {server.removeprefix('server-')}".rstrip() + "   ", style=style)
        text.append(f"\n{time.monotonic() - scenario.began:.0f} s   {len(scenario.results)} calls   ")
        return text.append(f"{failed} failed", style="bold red" if failed else "green")

    async def _lines(self) -> None:
        shown = 0
        while True:
            await asyncio.sleep(1.0)
            scenario = self._scenario
            if scenario.began is None:
                self._print("   -    starting three servers")
                continue
            results, shown = scenario.results[shown:], len(scenario.results)
            served = Counter(result.server or result.code for result in results)
            who = "  ".join(f"{name} {count}" for name, count in sorted(served.items())) or "no server"
            act, server = PLAN[min(len(scenario.steps), len(PLAN) - 1)]
            self._print(f"{time.monotonic() - scenario.began:4.0f} s  {f'{act} {server}':<20}  {who}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _block(count: int, rate: float) -> str:
    return _BLOCKS[min(8, max(1, round(8 * count / rate)) if count else 0)]


def show_summary(console: Console, scenario: Scenario, mode: str, seen: Sequence[Seen], outcomes: Sequence[Outcome]) -> None:
    """The table at the end, what is to be noticed, and whether the scenario held."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", no_wrap=True)
    for heading in ("seen", "failed", "slowest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("who served, by number", no_wrap=True)
    for line in seen:
        failed = Text(str(line.failed), style="bold red" if line.failed else "green")
        table.add_row(line.step.title, after(line), failed, f"{line.slowest * 1000:.0f} ms", _shares(line.share))
    console.print(_rule(mode, scenario.mode.target))
    console.print(table)
    console.print()
    for line, outcome in zip(seen, outcomes, strict=True):
        if outcome.broken:
            console.print(
                Text.assemble(("✗ ", "bold red"), (f"{line.step.title}: ", "bold"), outcome.broken),
                soft_wrap=not console.is_terminal,
            )
        elif outcome.note:
            console.print(
                Text.assemble(("· ", "dim"), (f"{line.step.title}: ", "bold"), outcome.note), soft_wrap=not console.is_terminal
            )
    held = not any(outcome.broken for outcome in outcomes)
    begin = ("✓ as expected: ", "bold green") if held else ("✗ not as expected: ", "bold red")
    console.print(Text.assemble(begin, scenario.mode.promise.text), soft_wrap=not console.is_terminal)


def after(line: Seen) -> str:
    """How soon a step's change was seen, in words."""
    if not line.step.server:
        return ""
    if line.after is None:
        return "no call" if line.step.adds else "left at once"
    return f"{'first' if line.step.adds else 'last'} at {f'{line.after * 1000:.0f} ms' if abs(line.after) < 1 else f'{line.after:.2f} s'}"


def _shares(share: dict[str, int]) -> Text:
    """A bar of digits: each server's own, as long as its share of the calls, so that it can be read without colors too."""
    text, done, shown = Text(), 0, 0
    for name, count in share.items():
        done += count
        until = round(_SHARES * done / sum(share.values()))
        text.append(name.removeprefix("server-") * (until - shown), style=COLORS[name])
        shown = until
    return text


def _rule(mode: str, target: str) -> Rule:
    return Rule(Text.assemble((f"MODE={mode}", "bold"), "  ", (target, "dim")), align="left", style="dim")
