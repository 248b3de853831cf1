"""What is expected of each mode, asserted of what was seen in every step. Pure."""

from collections.abc import Callable, Sequence

from ..outcome import Outcome
from .modes import Promise
from .summary import Seen

SLACK = 0.05
"""Seconds that a new server's first call may come later than the registry allows: what gRPC and a connection take."""
RESOLVED = 10.0
"""Seconds within which gRPC has certainly asked DNS again after a connection broke; the pair lets it ask once in 5."""
EVEN = 0.75
"""The least-called of equal servers gets at least this part of the calls of the most-called."""


def check(promise: Promise, seen: Sequence[Seen], slack: float = SLACK) -> list[Outcome]:
    """What came of each step, in the light of those before it."""
    rules: dict[str, Callable[[Promise, Sequence[Seen], float], Outcome]] = {"all": _all, "reconnect": _reconnect, "one": _one}
    return [
        rules[promise.spread](promise, seen[: number + 1], slack) if line.share else Outcome(broken="no call was answered")
        for number, line in enumerate(seen)
    ]


def _all(promise: Promise, seen: Sequence[Seen], slack: float) -> Outcome:
    """Every server that serves is called, at once, and nothing fails."""
    line = seen[-1]
    step, name = line.step, line.step.server
    if line.failed:
        return Outcome(broken=f"{line.failed} of {line.calls} calls failed; none should")
    if step.adds and (line.after is None or line.after > promise.within + slack):
        when = "never came" if line.after is None else f"came {line.after:.3f} s after the update"
        return Outcome(broken=f"the first call of {name} {when}; it should within {promise.within + slack:g} s")
    if idle := [server for server in step.serving if server not in line.share]:
        return Outcome(broken=f"{', '.join(idle)} served, and got no call")
    if step.act == "drain" and step.stopped is not None and line.last.get(name, 0.0) > step.stopped:
        return Outcome(broken=f"the last call of {name} ended {line.last[name] - step.stopped:.3f} s after its process")
    if step.act == "steady" and min(line.share.values()) < EVEN * max(line.share.values()):
        return Outcome(
            broken=f"the calls are not spread evenly: {', '.join(f'{server} {count}' for server, count in line.share.items())}"
        )
    return Outcome()


def _reconnect(promise: Promise, seen: Sequence[Seen], slack: float) -> Outcome:
    """gRPC's own resolver: a new server is found only because a connection broke."""
    *before, line = seen
    step, name = line.step, line.step.server
    breaks = [other.step.stopped for other in seen if other.step.stopped is not None]
    known = {server for other in before for server in other.share}
    found = [other.step for other in before if other.step.act == "add" and other.step.server in line.share.keys() - known]
    lost = [other.step.server for other in seen if other.step.act == "add" and other.step.server not in known | line.share.keys()]
    if step.act == "add" and not breaks:
        if line.after is not None:
            return Outcome(
                broken=f"{name} was called {line.after:.2f} s after it was added; gRPC should not have asked DNS again"
            )
        return Outcome("it serves, is in DNS, and gets no call: gRPC asks DNS again only when a connection breaks")
    if found and found[0].changed is not None:
        late = line.first[found[0].server] - found[0].changed
        return Outcome(
            f"a connection broke, gRPC asked DNS again, and {found[0].server} got its first call {late:.1f} s after it was added"
        )
    if lost and breaks and step.ended - min(breaks) > RESOLVED:
        return Outcome(
            broken=f"{lost[0]} got no call in {step.ended - min(breaks):.0f} s after a connection had broken; gRPC should have asked DNS again"
        )
    if step.adds:
        return Outcome(
            "it is back in DNS, and gets no call: no connection has broken since"
            if line.after is None
            else "gRPC had kept its address and tried again"
        )
    return Outcome()


def _one(promise: Promise, seen: Sequence[Seen], slack: float) -> Outcome:
    """One connection, one server, until the connection breaks."""
    *before, line = seen
    step, name = line.step, line.step.server
    held = max(before[-1].last, key=before[-1].last.__getitem__, default="") if before else ""
    now = max(line.last, key=line.last.__getitem__)
    if held and held == name and not step.adds:
        if len(line.share) > 2:
            return Outcome(broken=f"{', '.join(line.share)} were called; only {name} and the one after it should")
        if now == name:
            return Outcome(broken=f"no server was called after the end of {name}")
        return Outcome(f"its end broke the connection; now {now} gets every call")
    if len(line.share) != 1 or (held and held not in line.share):
        return Outcome(
            broken=f"{', '.join(line.share)} were called, though no connection broke; one connection should reach one server"
        )
    if step.adds:
        return Outcome(f"it serves, and gets no call: {now} has the only connection")
    return Outcome(f"{now} gets every call, the others idle" if not name else "nothing changes: it was idle")
