"""The page that tells what was seen, in plain words: all its figures are taken from the records. Pure."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from .judgement import judge
from .measure import Seen, drains, measure, median, numbers, samples, spoken
from .record import Act, Cost, Record


def title(record: Record) -> str:
    """Over a mode's picture."""
    return f"DISCOVERY={record.mode}, {record.rate:g} calls a second"


def render(records: Sequence[Record]) -> str:
    """The whole page, in Markdown. Raises ValueError where there is nothing to tell of."""
    if not records:
        raise ValueError("there is no record to write a page of")
    parts = [_begin(records), _overview(records)]
    for record in records:
        parts += _mode(record)
    parts += [_push(records), _outage(records), _method(records)]
    paragraphs = "\n\n".join(part for part in parts if part).split("\n\n")
    return "\n\n".join(map(_wrapped, paragraphs)) + "\n"


def _wrapped(paragraph: str) -> str:
    """Figures are long or short; lines are not."""
    if paragraph.startswith(("|", "#", "!", "- ")):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), 130, break_long_words=False, break_on_hyphens=False)


def _begin(records: Sequence[Record]) -> str:
    first = records[0]
    when = " and ".join(sorted({record.when for record in records}))
    return f"""# Every mode on a real cluster

One client makes {first.rate:g} calls a second; its servers' pods come and go, one is killed, and parts of the cluster itself fail. The same
story is told in each mode in which the pair can be deployed. `make experiment` has run it ({when}, Kubernetes {first.kubernetes},
{_count(first.nodes, "node")}) and has written this page: every figure is taken from the data beside it, one JSON file for each mode."""


def _overview(records: Sequence[Record]) -> str:
    head = (
        "mode",
        "first call of a new pod, median",
        "longest",
        "pods never called",
        "failed while pods come and go",
        "failed else",
        "",
    )
    rows = []
    for record in records:
        seen = measure(record)
        middle, found = median(seen), samples(seen)
        never = sum(late is None for line in seen for late in line.found.values())
        bare = sum(line.failures for line in seen if not line.step.retries)
        kept = "as expected" if all(not verdict.broken for verdict in judge(record)) else "**not as expected**"
        rows.append(
            (
                f"[{record.mode}](#{record.mode})",
                "–" if middle is None else f"{_late(middle)} (of {len(found)})",
                "–" if not found else _late(found[-1]),
                f"{never} of {never + len(found)}",
                str(bare),
                str(sum(line.failures for line in seen) - bare),
                kept,
            )
        )
    return f"""![new pods and failed calls, by mode](comparison.png)

{_table(head, rows)}

A first call is counted from the moment at which a watch on the API, independent of the client, shows the pod's Ready condition. While pods
come and go at first, the client makes no call twice, so that every failure is seen; later, while things break, it may."""


def _mode(record: Record) -> Iterator[str]:
    seen = measure(record)
    yield f"## {record.mode}\n\n{_ABOUT[record.mode](record, seen)}"
    yield f"![who serves, second by second]({record.mode}.png)"
    yield _steps(record, seen)
    verdicts = judge(record)
    where = [*(line.step.title for line in seen), "the whole"]
    broken = [f"- {place}: {verdict.broken}" for place, verdict in zip(where, verdicts, strict=True) if verdict.broken]
    if broken:
        yield "Not as promised:\n\n" + "\n".join(broken)


def _steps(record: Record, seen: Sequence[Seen]) -> str:
    head = (
        "step",
        "calls",
        "failed",
        "answered by pods",
        "first call of new pods",
        "last call of old ones",
        "slowest second's p99",
    )
    order = numbers(record)
    rows = [
        (
            f"{line.step.title}{'' if line.step.retries else ', no retries'}",
            str(line.calls),
            _failed(line),
            ", ".join(f"{order.get(pod, '?')}: {count}" for pod, count in line.share.items()) or "nobody",
            ", ".join(f"{order[pod]}: {'never' if late is None else _late(late)}" for pod, late in line.found.items()),
            ", ".join(f"{order[pod]}: {_left(late)}" for pod, late in line.left.items()),
            "" if line.slow is None else f"{line.slow:.0f} ms",
        )
        for line in seen
    ]
    return _table(head, rows)


def _passthrough(record: Record, seen: Sequence[Seen]) -> str:
    steady, up, again = _at(seen, "steady"), _at(seen, "scale up"), _at(seen, "scale up again")
    text = """gRPC opens one connection to the Service's own address, and the cluster picks a pod for it. A pod is picked for a connection, not for a
call, and gRPC keeps its connection for as long as it can: so one pod is pinned."""
    if steady is not None:
        most = max(steady.share.values(), default=0)
        text += f""" In the steady step {_count(len(steady.share), "pod")} of
{steady.step.pods} answered {most} of {steady.calls} calls."""
    if up is not None and up.found:
        called = sum(pod in up.share for pod in up.found)
        text += f" Of {len(up.found)} pods that scaling up had added, {called or 'none'} got a call in that step."
    text += " Only the end of a connection moves the calls, and then all of them."
    if again is not None:
        text += f"""

With MaxConnectionAge {record.settings["age"]:g} s the server ends connections that are older, and the next one may lead elsewhere: in the last step
{_count(len(again.share), "pod")} of {again.step.pods} answered. That spreads the calls over time, not over pods: at any moment it is still one."""
    return text


def _native(record: Record, seen: Sequence[Seen]) -> str:
    up, again = _at(seen, "scale up"), _at(seen, "scale up again")
    text = """gRPC's own resolver asks DNS for the pods of a headless Service and calls them in turn. It asks again only when a connection breaks."""
    if up is not None and up.found:
        called = sum(pod in up.share for pod in up.found)
        text += f""" So scaling up goes unseen while all is
well: of {len(up.found)} new pods {called or "none"} got a call in that step, of {up.step.ended - up.step.began:.0f} s."""
        late = [value for value in up.found.values() if value is not None]
        text += f" Later, when connections had broken, {len(late) or 'none'} of them did." if called < len(up.found) else ""
    text += _lost_to_dns(record, seen)
    if again is not None and again.found:
        late = sorted(value for value in again.found.values() if value is not None)
        after = f"{_count(len(late), 'new pod')} of {len(again.found)} got a first call"
        after += f", {_late(late[0])} to {_late(late[-1])} after it was ready" if late else ""
        text += f"""

MaxConnectionAge is what people set against that: the server ends each connection at an age of about {record.settings["age"]:g} s, gRPC asks DNS again, and
finds what is new. With it, {after}. What it buys is an upper bound: the age, and DNS's own {record.settings["dns_ttl"]:g} s, in which CoreDNS gives the same answer.
What it costs is that every client connects anew to every pod, all the time; and the bound does not help when pods go."""
    return text


def _dns(record: Record, seen: Sequence[Seen]) -> str:
    refresh, ttl = record.settings["refresh"], record.settings["dns_ttl"]
    return f"""discovery asks DNS for the pods of a headless Service every {refresh:g} s, whatever the connections do, and leaves the channel as it is. CoreDNS
gives the same answer for up to {ttl:g} s, so a new pod is found within {refresh + ttl:g} s. {_found(seen)} Nothing needs to be allowed, and
no connection needs to break.{_lost_to_dns(record, seen)}"""


def _lost_to_dns(record: Record, seen: Sequence[Seen]) -> str:
    """Why calls fail where the old pods' end comes before the news of the new ones."""
    lost = [line for line in seen if line.failures and line.step.act in ("scale down", "roll out", "roll out again", "limit age")]
    if not lost:
        return ""
    failed = ", ".join(f"{line.failures} of {line.calls} ({line.step.title})" for line in lost)
    return f"""

DNS is late in the other direction, too: {failed} calls failed. A pod that is told to end goes on for {spoken(drains(record))} (the median here), and
CoreDNS may name it, and not yet those in its place, for {record.settings["dns_ttl"]:g} s. When all that a client knows have ended, there is nobody to call.
A drain longer than DNS is late prevents it (`SERVER__DRAIN__WAIT`), and so does a smaller `ttl` in CoreDNS."""


def _kubernetes(record: Record, seen: Sequence[Seen]) -> str:
    return f"""discovery lists the Service's EndpointSlices and watches them: the API server tells of a change when it happens. {_found(seen)}
{_lossless(seen)} What it needs is an account that may read EndpointSlices: see [below](#what-push-buys-and-what-it-costs)."""


def _etcd(record: Record, seen: Sequence[Seen]) -> str:
    found = samples(seen)
    early = sum(late < 0 for late in found)
    text = f"""Servers put themselves into etcd under a lease, and take themselves out when they are told to end; clients watch. {_found(seen)}"""
    if early:
        text += f""" {early} of {len(found)} were called
before Kubernetes had them as Ready: a server registers when it listens, the readiness probe asks a moment later."""
    return f"{text}\n{_lossless(seen)} Kubernetes' API has no part in it."


def _found(seen: Sequence[Seen]) -> str:
    found, middle = samples(seen), median(seen)
    if middle is None:
        return "No new pod got a call."
    if found[-1] < 0:
        return f"Here all of {len(found)} new pods got their first call before they were Ready."
    return f"Here the median of {len(found)} new pods got its first call {_after(middle)}, the last one {_after(found[-1])}."


def _lossless(seen: Sequence[Seen]) -> str:
    bare = [line for line in seen if not line.step.retries and line.step.act in ("scale up", "scale down", "roll out")]
    failed, calls = sum(line.failures for line in bare), sum(line.calls for line in bare)
    return f"Scaling up, down and rolling out, without a retry, cost {failed or 'none'} of {calls} calls."


_ABOUT: dict[str, Callable[[Record, Sequence[Seen]], str]] = {
    "passthrough": _passthrough,
    "native-dns": _native,
    "dns": _dns,
    "kubernetes": _kubernetes,
    "etcd": _etcd,
}


def _push(records: Sequence[Record]) -> str:
    """Every mode's part in the API server's work."""
    rows = [
        (
            record.mode,
            {None: "unknown", True: "yes", False: "no"}[record.cost.may_read],
            "unknown" if record.cost.requests is None else str(record.cost.requests),
            _told(record.cost) if record.mode == "kubernetes" else "–",
            f"{record.steps[-1].ended:.0f} s",
        )
        for record in records
    ]
    text = """## What push buys, and what it costs

It buys time: a new pod is called as soon as its registry knows of it, and an old one is left before it stops, so that nothing has to be made
twice. It costs a registry that can be watched, and the right to do so: with `kubernetes` a Role for the client's account (get, list and watch on
EndpointSlices of its namespace), with `etcd` an etcd and an address for it. DNS needs neither."""
    told = next((record for record in records if record.mode == "kubernetes" and record.cost.events), None)
    if told is not None and told.cost.bytes is not None and told.cost.events is not None:
        pods = sum(change.what == "created" and change.role == "server" for change in told.changes)
        text += f"""

The load on the API is one open watch for each client. It is told of every change: here {told.cost.events} events of {told.cost.bytes / told.cost.events / 1000:.1f} kB on average
for {pods} pods that came and {sum(change.what == "terminating" and change.role == "server" for change in told.changes)} that were told to end. An event holds the whole slice, so it grows with the number of pods (up to a hundred in a slice),
and the sum with the number of clients."""
    return f"""{text}

{_table(("mode", "client may read EndpointSlices", "requests of workloads to the API", "what its watch was told", "in"), rows)}

The requests are those of all accounts outside kube-system on the whole cluster, as the API server counts them, so others may have part in them."""


def _told(cost: Cost) -> str:
    return "unknown" if cost.events is None or cost.bytes is None else f"{cost.events} events, {cost.bytes / 1000:.0f} kB"


def _outage(records: Sequence[Record]) -> str:
    """What the API server's absence does."""
    told = [(record, line) for record in records for line in measure(record) if line.step.act == "stop API"]
    if not told:
        return ""
    rows = []
    for record, line in told:
        back = next(after for after in measure(record) if after.step.act == "start API")
        late = ["never" if value is None else _late(value) for value in back.found.values()]
        rows.append((record.mode, f"{line.failures} of {line.calls}", f"{back.failures} of {back.calls}", ", ".join(late)))
    seconds = told[0][0].settings["outage"]
    return f"""## When the API server is away

It was stopped for {seconds:g} s. Pods go on, and so does everybody who knows them: a registry that is down never empties a client's set. Changes wait
for its return; then the servers were scaled up, and new pods' first calls came so long after they were ready:

{_table(("mode", "failed while it was away", "failed after its return", "first calls of new pods"), rows)}"""


def _method(records: Sequence[Record]) -> str:
    clocks = max((abs(record.clocks) for record in records), default=0.0)
    lines = [
        "## How it was measured",
        """A line of the client's log, once a second, says who answered how many calls, and which failed; another one names a server that answers for the
first time. A call belongs to the step in which most of its second lies. Two clients call while one takes the other's place.""",
        f"""The times of pods and of calls come from two clocks, that of the machine which ran the experiment and that of the client's node. They
differ by less than {clocks * 1000:.1f} ms, the shortest time in which a line of the log arrived.""",
    ]
    skipped = {what: why for record in records for what, why in record.skipped.items()}
    lines += [f"Left out: to {what}, because {why}." for what, why in skipped.items()]
    if quick := [record.mode for record in records if record.quick]:
        lines.append(f"This is the short story (`QUICK`) of {', '.join(quick)}: nothing of the cluster itself was disturbed.")
    return "\n\n".join(lines)


def _at(seen: Sequence[Seen], act: Act) -> Seen | None:
    return next((line for line in seen if line.step.act == act), None)


def _late(seconds: float) -> str:
    return "before" if seconds < 0 else spoken(seconds)


def _after(seconds: float) -> str:
    return "before it was Ready" if seconds < 0 else f"{spoken(seconds)} after it was Ready"


def _left(seconds: float) -> str:
    """Seconds of the log are whole ones."""
    return "at once" if seconds <= LOG else f"{seconds:.0f} s"


def _failed(line: Seen) -> str:
    return "0" if not line.failures else ", ".join(f"{count} {code}" for code, count in line.failed.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


LOG = 1.1
"""Seconds within which a line of the log may still tell of a call that was made before."""
