"""How figures are written in text and tables. Pure."""

from collections.abc import Sequence

LINE = 1.1
"""Seconds within which a line of the client's log may still count a call that was made before."""


def spoken(seconds: float) -> str:
    """A time from one event to the next; below zero the second came first."""
    if seconds < 0:
        return "before"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def after(seconds: float) -> str:
    return "before it was Ready" if seconds < 0 else f"{spoken(seconds)} after it was Ready"


def left(seconds: float) -> str:
    """Seconds of the log are whole ones."""
    return "at once" if seconds <= LINE else f"{seconds:.0f} s"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
