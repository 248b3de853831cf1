"""What one mode's run has shown, raw: the file from which tables, pictures, outcomes and the page are made. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Role = Literal["server", "client"]
What = Literal["created", "ready", "listed", "not ready", "terminating", "gone"]
Act = Literal[
    "steady", "scale up", "scale down", "roll out", "retries on", "kill", "restart DNS", "stop API", "start API", "roll out again",
    "other age", "scale up again",
]  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step. began: before the change.  changed: when the command that made it came back.  ended: the watching of it.

    pods: how many servers are wanted at its end.   retries: whether the client makes failed calls again.
    """

    act: Act
    title: str
    began: float
    changed: float
    ended: float
    pods: int
    retries: bool


@dataclass(frozen=True)
class Change:
    """A pod, as a watch on the API reports it at the moment `at`; `listed` is when an EndpointSlice first had it as ready."""

    at: float
    pod: str
    role: Role
    what: What


@dataclass(frozen=True)
class Second:
    """One line of the client's log: the calls that ended in the second before `at`. slow: the 99th percentile in milliseconds."""

    at: float
    served: Mapping[str, int]
    errors: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    slow: float | None = None


@dataclass(frozen=True)
class First:
    """A client's first answer from a server that it had not heard of."""

    at: float
    server: str


@dataclass(frozen=True)
class Cost:
    """What the mode asks of the Kubernetes API.

    may_read: whether the client's account may list EndpointSlices.   requests: those that accounts of the whole cluster's workloads
    made meanwhile.   events, bytes: what one watch on the Service's EndpointSlices received.  None where it could not be seen.
    """

    may_read: bool | None = None
    requests: int | None = None
    events: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Record:
    """One mode's run. Times are seconds since the first step began; pods go by their names without what all have in common.

    settings: seconds that matter: the pair's refresh, CoreDNS's dns_ttl, the age of a connection where it is limited, min_ready for which
    a rollout waits, the outage.
    clocks: the observer's clock and the client's differ by less than this; negative where the client's is ahead.
    skipped: what was not done, and why, by the step's title.   quick: the short scenario.
    """

    mode: str
    rate: float
    when: str
    kubernetes: str
    nodes: int
    clocks: float
    settings: Mapping[str, float]
    quick: bool
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    seconds: tuple[Second, ...]
    firsts: tuple[First, ...]
    cost: Cost = Cost()
    skipped: Mapping[str, str] = field(default_factory=dict)


def dump(record: Record, outcome: Mapping[str, Any]) -> str:
    """JSON, one item of a list on a line; `outcome` is what was made of it, for readers."""
    parts = []
    for key, value in {**asdict(record), "outcome": outcome}.items():
        many = isinstance(value, list | tuple)
        text = _lines(value) if many else json.dumps(value, indent=2 if key == "outcome" else None)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(items: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


def load(path: Path) -> Record:
    """Read what `dump` wrote. Raises OSError, ValueError."""
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds: dict[str, Any] = {"steps": Step, "changes": Change, "seconds": Second, "firsts": First}
    try:
        known = {name.name: found[name.name] for name in fields(Record)}
        many = {key: tuple(kind(**item) for item in known[key]) for key, kind in kinds.items()}
        return Record(**{**known, **many, "cost": Cost(**known["cost"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of an experiment: {error!r}") from None
