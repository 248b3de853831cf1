"""What each step showed: which pods were called, what failed, how soon new pods were found and old ones left. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.outcome import Outcome

from .record import Record, Role, Step, What


@dataclass(frozen=True)
class Seen:
    """One step as the client saw it. A call belongs to the step in which most of its second lies.

    failed: calls by status code.   skipped: calls that were not made, because too many were under way.   share: answered calls by pod.
    found: for each pod that became ready, the seconds from then to its first answer ever; None if there was none.
    left: for each pod that was terminated, the seconds from then to the last second in which it answered; 0 if there was none.
    ready: the pods that were ready at the end.   slow: the worst second's 99th percentile, milliseconds.
    """

    step: Step
    calls: int
    failed: dict[str, int]
    skipped: int
    share: dict[str, int]
    found: dict[str, float | None]
    left: dict[str, float]
    ready: tuple[str, ...]
    slow: float | None

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


def measure(record: Record) -> list[Seen]:
    """What was seen in each step."""
    ends = [*(step.ended for step in record.steps[:-1]), math.inf]
    begins = [-math.inf, *ends[:-1]]
    return [_measure(record, step, begin, end) for step, begin, end in zip(record.steps, begins, ends, strict=True)]


def _measure(record: Record, step: Step, begin: float, end: float) -> Seen:
    """`begin` and `end` divide all time between the steps."""
    seconds = [second for second in record.seconds if begin <= second.at - 0.5 < end]
    share = Counter[str]()
    failed = Counter[str]()
    for second in seconds:
        share.update(second.served)
        failed.update(second.errors)
    first = {each.server: each.at for each in reversed(record.firsts)}
    became = {pod: at for pod, at in _moments(record, "server", "ready").items() if begin <= at < end and at > 0}
    terminating = {pod: at for pod, at in _moments(record, "server", "terminating").items() if begin <= at < end}
    return Seen(
        step,
        calls=share.total() + failed.total(),
        failed=dict(sorted(failed.items())),
        skipped=sum(second.skipped for second in seconds),
        share=dict(sorted(share.items(), key=lambda item: numbers(record).get(item[0], 0))),
        found={pod: first[pod] - at if pod in first else None for pod, at in became.items()},
        left={
            pod: max([0.0, *(each.at - at for each in record.seconds if each.served.get(pod))]) for pod, at in terminating.items()
        },
        ready=_ready(record, min(end, step.ended)),
        slow=max((second.slow for second in seconds if second.slow is not None), default=None),
    )


def _moments(record: Record, role: Role, what: What) -> dict[str, float]:
    """When each pod came to that for the first time, in their order."""
    order = numbers(record)
    found = {change.pod: change.at for change in reversed(record.changes) if change.role == role and change.what == what}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 0)))


def _ready(record: Record, at: float) -> tuple[str, ...]:
    """The servers that are ready, and not terminating, at a moment."""
    found: dict[str, None] = {}
    for change in record.changes:
        if change.role == "server" and change.what != "listed" and change.at <= at:
            found.pop(change.pod, None)
            if change.what == "ready":
                found[change.pod] = None
    return tuple(found)


def numbers(record: Record) -> dict[str, int]:
    """The servers in the order in which they came, from 1: what pictures and tables call them."""
    came = [change.pod for change in record.changes if change.role == "server" and change.what == "created"]
    return {pod: number for number, pod in enumerate(dict.fromkeys(came), 1)}


def samples(seen: Sequence[Seen]) -> list[float]:
    """Seconds from ready to first call, of every new pod that got one."""
    return sorted(late for line in seen for late in line.found.values() if late is not None)


def median(seen: Sequence[Seen]) -> float | None:
    """The middle one of them."""
    found = samples(seen)
    return statistics.median(found) if found else None


def listed(record: Record, seen: Sequence[Seen]) -> list[float]:
    """Seconds from ready to being so in an EndpointSlice, of the pods that came in the course of it."""
    listed_at, ready = _moments(record, "server", "listed"), _moments(record, "server", "ready")
    return sorted(listed_at[pod] - ready[pod] for line in seen for pod in line.found if pod in listed_at)


def lapses(record: Record, step: Step) -> list[float]:
    """For how many seconds servers that had been ready, and were not terminating, counted as not ready in a step, until they were again."""
    since: dict[str, float] = {}
    found = []
    for change in record.changes:
        if change.role == "server" and step.began <= change.at < step.ended:
            if change.what == "not ready":
                since[change.pod] = change.at
            elif change.pod in since and change.what != "listed":
                found.append(change.at - since.pop(change.pod))
    return sorted(found)


def drains(record: Record) -> float:
    """Seconds from a pod's termination, its SIGTERM, to its end: the median, 0 where none ended."""
    terminating, gone = _moments(record, "server", "terminating"), _moments(record, "server", "gone")
    return statistics.median([gone[pod] - at for pod, at in terminating.items() if pod in gone] or [0.0])


def as_json(seen: Sequence[Seen], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For readers of the file; times in seconds, `slow` in milliseconds."""
    found = samples(seen)
    return {
        "held": not any(outcome.broken for outcome in outcomes),
        "calls": sum(line.calls for line in seen),
        "failed": sum(line.failures for line in seen),
        "ready_to_first_call": {
            "pods": sum(len(line.found) for line in seen),
            "called": len(found),
            "median": None if not found else round(statistics.median(found), 3),
            "longest": None if not found else round(found[-1], 3),
        },
        "steps": [
            {
                "step": line.step.title,
                "calls": line.calls,
                "failed": line.failed,
                "share": line.share,
                "ready_to_first_call": {pod: None if late is None else round(late, 3) for pod, late in line.found.items()},
                "terminating_to_last_call": {pod: round(late, 1) for pod, late in line.left.items()},
                "slow": line.slow,
            }
            for line in seen
        ],
        "broken": [outcome.broken for outcome in outcomes if outcome.broken],
    }
