"""What each step showed: which servers were called, how soon, and what failed. Pure."""

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..load import Result
from ..outcome import Outcome
from .scenario import Step


@dataclass(frozen=True)
class Seen:
    """One step as the client saw it. A call belongs to the step in which it ended; times are `time.monotonic()` seconds.

    first, last: the end of each server's first and last answered call.   slowest: the longest call, which shows retries.
    """

    step: Step
    calls: int
    failed: int
    slowest: float
    share: dict[str, int]
    first: dict[str, float]
    last: dict[str, float]

    @property
    def after(self) -> float | None:
        """Seconds from the change to the new server's first call, or to the old one's last; None if there was none.

        0 where the client was faster than the demo's own look at the registry."""
        moment = (self.first if self.step.adds else self.last).get(self.step.server)
        return None if moment is None or self.step.changed is None else max(0.0, moment - self.step.changed)


def measure(steps: Sequence[Step], results: Sequence[Result]) -> list[Seen]:
    """What was seen in each step; the last one has all calls that were under way at its end, too."""
    ends = [*(step.ended for step in steps[:-1]), math.inf]
    by_step: list[list[Result]] = [[] for _ in steps]
    for result in results:
        by_step[bisect.bisect(ends, result.started + result.duration)].append(result)
    return [_measure(step, own) for step, own in zip(steps, by_step, strict=True)]


def _measure(step: Step, results: Sequence[Result]) -> Seen:
    answers = sorted((result.started + result.duration, result.server) for result in results if result.code == "OK")
    return Seen(
        step,
        calls=len(results),
        failed=len(results) - len(answers),
        slowest=max((result.duration for result in results), default=0.0),
        share=dict(sorted(Counter(server for _, server in answers).items())),
        first={server: ended for ended, server in reversed(answers)},
        last={server: ended for ended, server in answers},
    )


def as_json(seen: Sequence[Seen], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For machines; times in seconds."""
    return {
        "held": not any(outcome.broken for outcome in outcomes),
        "calls": sum(line.calls for line in seen),
        "failed": sum(line.failed for line in seen),
        "servers": sorted({name for line in seen for name in line.share}),
        "steps": [
            {
                "step": line.step.act,
                "server": line.step.server or None,
                ("first_call_after" if line.step.adds else "last_call_after"): line.after,
                "calls": line.calls,
                "failed": line.failed,
                "slowest": line.slowest,
                "share": line.share,
                "note": outcome.note or None,
                "broken": outcome.broken or None,
            }
            for line, outcome in zip(seen, outcomes, strict=True)
        ],
    }
