"""The page about what was seen, in plain words: all its figures are taken from the records. Pure."""

import textwrap
from collections.abc import Iterator, Sequence

from .assertions import check
from .explanation import ABOUT
from .measure import Seen, lapses, listed, measure, median, numbers, samples
from .record import Cost, Record
from .wording import count, left, spoken, table


def title(record: Record) -> str:
    """Over a mode's picture."""
    return f"DISCOVERY={record.mode}, {record.rate:g} calls a second"


def render(records: Sequence[Record]) -> str:
    """The whole page, in Markdown. Raises ValueError where there is no record."""
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
scenario is run in each mode in which the pair can be deployed. `make experiment` has run it ({when}, Kubernetes {first.kubernetes},
{count(first.nodes, "node")}) and has written this page: every figure is taken from the data beside it, one JSON file for each mode."""


def _overview(records: Sequence[Record]) -> str:
    head = (
        "mode",
        "first call of a new pod, median",
        "longest",
        "pods never called",
        "failed while pods come and go",
        "failed later, with retries",
        "",
    )
    rows = []
    for record in records:
        seen = measure(record)
        middle, found = median(seen), samples(seen)
        never = sum(late is None for line in seen for late in line.found.values())
        bare = sum(line.failures for line in seen if not line.step.retries)
        kept = "as expected" if all(not outcome.broken for outcome in check(record)) else "**not as expected**"
        rows.append(
            (
                f"[{record.mode}](#{record.mode})",
                "–" if middle is None else f"{spoken(middle)} (of {len(found)})",
                "–" if not found else spoken(found[-1]),
                f"{never} of {never + len(found)}",
                str(bare),
                str(sum(line.failures for line in seen) - bare),
                kept,
            )
        )
    return f"""![new pods and failed calls, by mode](comparison.png)

{table(head, rows)}

A first call is counted from the moment at which a watch on the API, independent of the client, shows the pod's Ready condition. While pods
come and go at first, the client makes no call twice, so that every failure is seen; later, while things break, it may."""


def _mode(record: Record) -> Iterator[str]:
    seen = measure(record)
    yield f"## {record.mode}\n\n{ABOUT[record.mode](record, seen)}"
    yield f"![who serves, second by second]({record.mode}.png)"
    yield _steps(record, seen)
    outcomes = check(record)
    where = [*(line.step.title for line in seen), "the whole"]
    broken = [f"- {place}: {outcome.broken}" for place, outcome in zip(where, outcomes, strict=True) if outcome.broken]
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
        "slow calls, worst second",
    )
    order = numbers(record)
    rows = [
        (
            f"{line.step.title}{'' if line.step.retries else ', no retries'}",
            str(line.calls),
            _failed(line),
            ", ".join(f"{order.get(pod, '?')}: {count}" for pod, count in line.share.items()) or "none",
            ", ".join(f"{order[pod]}: {'never' if late is None else spoken(late)}" for pod, late in line.found.items()),
            ", ".join(f"{order[pod]}: {left(late)}" for pod, late in line.left.items()),
            "" if line.slow is None else f"{line.slow:.0f} ms",
        )
        for line in seen
    ]
    return table(head, rows)


def _push(records: Sequence[Record]) -> str:
    """Every mode's part in the API server's work."""
    rows = [
        (
            record.mode,
            {None: "unknown", True: "yes", False: "no"}[record.cost.may_read],
            "unknown" if record.cost.requests is None else str(record.cost.requests),
            _watched(record.cost) if record.mode == "kubernetes" else "–",
            f"{record.steps[-1].ended:.0f} s",
        )
        for record in records
    ]
    text = """## What push buys, and what it costs

It buys time: a new pod is called as soon as its registry lists it, and an old one is left before it stops, so that no call has to be made
twice. It costs a registry that can be watched, and the right to do so: with `kubernetes` a Role for the client's account (get, list and watch on
EndpointSlices of its namespace), with `etcd` an etcd and an address for it. DNS needs neither."""
    watched = next((record for record in records if record.mode == "kubernetes" and record.cost.events), None)
    if watched is not None and watched.cost.bytes is not None and watched.cost.events is not None:
        pods = sum(change.what == "created" and change.role == "server" for change in watched.changes)
        text += f"""

The load on the API is one open watch for each client. It receives every change: here {watched.cost.events} events of {watched.cost.bytes / watched.cost.events / 1000:.1f} kB on average
for {pods} pods that came and {sum(change.what == "terminating" and change.role == "server" for change in watched.changes)} that were ended. An event holds the whole slice, so it grows with the number of pods (up to a hundred in a slice),
and the sum with the number of clients."""
    return f"""{text}

{table(("mode", "client may read EndpointSlices", "requests of workloads to the API", "what its watch received", "in"), rows)}

The requests are those of all accounts outside kube-system on the whole cluster, as the API server counts them, so other workloads may have a part in them."""


def _watched(cost: Cost) -> str:
    return "unknown" if cost.events is None or cost.bytes is None else f"{cost.events} events, {cost.bytes / 1000:.0f} kB"


def _outage(records: Sequence[Record]) -> str:
    """What the API server's absence does."""
    stopped = [(record, line) for record in records for line in measure(record) if line.step.act == "stop API"]
    if not stopped:
        return ""
    rows = []
    for record, line in stopped:
        back = next(after for after in measure(record) if after.step.act == "start API")
        ready = [change.at - back.step.began for change in record.changes if change.pod in back.found and change.what == "ready"]
        rows.append(
            (
                record.mode,
                *(f"{step.failures} of {step.calls}" for step in (line, back)),
                spoken(max(ready)) if ready else "–",
                ", ".join(map(spoken, listed(record, [back]))) or "–",
                ", ".join("never" if value is None else spoken(value) for value in back.found.values()),
            )
        )
    head = ("mode", "failed while it was away", "failed after its return", "new pods ready after its return", "in an EndpointSlice after that",
            "first call after they were ready")  # fmt: skip
    seconds = stopped[0][0].settings["outage"]
    lapsed = sorted(
        late for record, _ in stopped for step in record.steps if step.act == "start API" for late in lapses(record, step)
    )
    doubt = (
        f"""

After its return, {count(len(lapsed), "server")} counted as not ready for up to {spoken(lapsed[-1])}, though they served: their node could not report meanwhile, so the cluster
took it for lost. A client that believes that at once has no server to call; `DISCOVERY__EMPTY` sets for how
long discovery keeps the last set."""
        if lapsed
        else ""
    )
    return f"""## When the API server is away

It was stopped for {seconds:g} s. Pods go on serving, and clients go on calling the pods that they know: a registry that is down never empties a client's set. Changes wait
for its return; then the servers were scaled up. The cluster's own controllers need a while to notice that: until new pods are ready, and then until an EndpointSlice has them so, which is
all that DNS and watches can report. Registries of one's own do not wait for it.

{table(head, rows)}{doubt}"""


def _method(records: Sequence[Record]) -> str:
    clocks = max((abs(record.clocks) for record in records), default=0.0)
    lines = [
        "## How it was measured",
        """A line of the client's log, once a second, says which servers answered how many calls, and which calls failed; another one names a server that answers for the
first time. A call belongs to the step in which most of its second lies. Two clients call while one takes the other's place.""",
        f"""The times of pods and of calls come from two clocks, that of the machine which ran the experiment and that of the client's node. They
differ by less than {clocks * 1000:.1f} ms, the shortest time in which a line of the log arrived.""",
    ]
    skipped = {what: why for record in records for what, why in record.skipped.items()}
    lines += [f"Left out: to {what}, because {why}." for what, why in skipped.items()]
    if quick := [record.mode for record in records if record.quick]:
        lines.append(f"This is the short scenario (`QUICK`) of {', '.join(quick)}: nothing of the cluster itself was disturbed.")
    return "\n\n".join(lines)


def _failed(line: Seen) -> str:
    return ", ".join(f"{number} {code}" for code, number in line.failed.items()) or "none"
