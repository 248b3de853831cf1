"""Results in, judgement out: what each step took, what failed, and whether the story held. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .modes import Promise
from .pair import Result
from .story import Step


@dataclass(frozen=True)
class Line:
    """One step's outcome. seconds: from the update to the new server's first call, or to the old one's last; None if never.
    broken: which expectation was not met, empty if all were."""

    step: str
    server: str
    calls: int
    failed: int
    seconds: float | None
    share: dict[str, int]
    broken: str = ""


def judge(steps: Sequence[Step], results: Sequence[Result], promise: Promise) -> list[Line]:
    """A line for each step; a call belongs to the step in which it was begun."""
    return [_line(step, [result for result in results if step.began <= result.started < step.ended], promise) for step in steps]


def _line(step: Step, results: Sequence[Result], promise: Promise) -> Line:
    failed = [result for result in results if result.code != "OK"]
    share = Counter(result.server for result in results if result.server)
    mine = [result.started + result.duration for result in results if result.server == step.server]
    seconds = None
    if step.changed is not None and mine:
        seconds = (min(mine) if step.expects == "first" else max(mine)) - step.changed
    return Line(step.name, step.server, len(results), len(failed), seconds, dict(sorted(share.items())), _broken(step, len(failed), seconds, share, promise))


def _broken(step: Step, failed: int, seconds: float | None, share: Counter[str], promise: Promise) -> str:
    if not share:
        return "no call was answered"
    if promise.pinned and step.name == "steady" and len(share) != 1:
        return f"{len(share)} servers were called, where one connection reaches one"
    if promise.prompt is None:
        if step.name == "add" and not promise.pinned and seconds is not None:
            return f"the new server was called after {seconds:.2f} s, where gRPC's own resolver should not have seen it"
        return ""
    if failed:
        return f"{failed} calls failed, where none should"
    if step.expects == "first" and (seconds is None or seconds > promise.prompt):
        return f"the first call came {'never' if seconds is None else f'after {seconds:.3f} s'}, where {promise.prompt:g} s were promised"
    if step.expects == "last" and step.stopped is not None and seconds is not None and step.changed is not None and step.changed + seconds > step.stopped + 0.5:
        return "calls went to the server after its end"
    if step.name == "steady" and min(share.values()) < 0.75 * max(share.values()):
        return "the split is uneven by more than a quarter"
    return ""


def as_json(mode: str, target: str, promise: Promise, lines: Sequence[Line]) -> dict[str, Any]:
    """For machines."""
    return {
        "mode": mode,
        "target": target,
        "expected": promise.text,
        "held": held(lines),
        "steps": [asdict(line) for line in lines],
    }


def held(lines: Sequence[Line]) -> bool:
    """Whether everything was as promised."""
    return bool(lines) and not any(line.broken for line in lines)
