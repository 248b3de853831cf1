"""What is promised of each mode, asserted of what was seen: in every step, then in the whole. Pure."""

from collections.abc import Iterator, Sequence

from lab.outcome import Outcome

from .measure import Seen, measure, median, numbers, samples
from .modes import MODES, Mode
from .record import Act, Record

EVEN = 0.25
"""How far a pod's part of the calls may be from an even share, where all are called."""
CONNECTED = 2.0
"""Seconds that a pod's first call may come later than its registry's answer: a connection, on a machine that is busy."""
WANTED = 10
"""How many pods the median of a full run must be of."""
_UNHARMED: tuple[Act, ...] = ("kill", "restart DNS", "stop API", "start API")
"""Steps in which no call fails, in whatever mode: the client makes a failed call again."""
_CHANGES: tuple[Act, ...] = ("scale up", "scale down", "roll out", "roll out again", "start API")
"""Steps in which pods come or go in order: where the registry pushes changes, no call fails."""


def check(record: Record) -> list[Outcome]:
    """What came of each step, and of the whole."""
    mode, seen = MODES[record.mode], measure(record)
    steps = [Outcome(broken="; ".join(_broken(record, mode, seen[: number + 1]))) for number in range(len(seen))]
    return [*steps, _whole(record, mode, seen)]


def _broken(record: Record, mode: Mode, seen: Sequence[Seen]) -> Iterator[str]:
    line = seen[-1]
    act = line.step.act
    if not line.share:
        yield "no call was answered"
        return
    if len(line.ready) != line.step.pods:
        yield f"{len(line.ready)} pods were ready at the end, {line.step.pods} should be"
    if line.failures and (act in ("steady", *_UNHARMED) or (mode.pushed and act in _CHANGES)):
        codes = ", ".join(f"{code} {count}" for code, count in line.failed.items())
        yield f"{line.failures} of {line.calls} calls failed ({codes}); none should"
    if line.skipped:
        yield f"{line.skipped} calls were not made, because too many were under way"
    if act == "steady":
        yield from _split(record, mode, line)
    if mode.spread == "reconnect" and act == "scale up again":
        if early := [_name(record, pod) for pod in line.found if pod in line.share]:
            yield f"{', '.join(early)} got calls, though no connection broke; gRPC should not have asked DNS again"
    elif mode.spread != "one":
        yield from _found(record, mode, line)


def _split(record: Record, mode: Mode, line: Seen) -> Iterator[str]:
    """The share of each pod, while nothing changes."""
    counts = ", ".join(f"{_name(record, pod)} {count}" for pod, count in line.share.items())
    if mode.spread == "one":
        if len(line.share) > 1:
            yield f"one connection should reach one pod; calls were answered by {counts}"
        return
    even = sum(line.share.values()) / line.step.pods
    if any(abs(line.share.get(pod, 0) - even) > EVEN * even for pod in line.ready):
        yield f"the calls are not spread evenly over {line.step.pods} pods: {counts}"


def _found(record: Record, mode: Mode, line: Seen) -> Iterator[str]:
    """Every new pod that stays is called; where the registry is polled, in time. Where it pushes, the median of all counts, at the end;
    and after the API server's return it is the cluster itself that is late."""
    within = None if mode.pushed or line.step.act == "start API" else mode.within(record.settings)
    latest = None if within is None else within + CONNECTED
    for pod, late in line.found.items():
        if pod in line.ready and late is None:
            yield f"{_name(record, pod)} became ready, and got no call"
        elif late is not None and latest is not None and late > latest:
            yield f"the first call of {_name(record, pod)} came {late:.1f} s after it was ready; it should within {latest:.1f} s"


def _whole(record: Record, mode: Mode, seen: Sequence[Seen]) -> Outcome:
    """The median of all new pods, in the modes whose registry pushes changes."""
    middle, count = median(seen), len(samples(seen))
    if not mode.pushed:
        return Outcome()
    within = mode.within(record.settings)
    if middle is None or within is None:
        return Outcome(broken="no new pod got a call")
    if middle > within:
        return Outcome(
            broken=f"the median of {count} new pods got its first call {middle * 1000:.0f} ms after it was ready; it should within {within * 1000:.0f} ms"
        )
    if count < WANTED and not record.quick:
        return Outcome(broken=f"{count} new pods got calls; a median of {WANTED} is wanted")
    return Outcome()


def _name(record: Record, pod: str) -> str:
    return f"pod {numbers(record).get(pod, '?')}"
