"""`python -m lab.transitions`: change the mode of a running pair by `kubectl apply -k` alone, and count the calls that fail.

Status 0 if no call failed, 1 if one did, 2 if it could not be run, 130 if it was ended by a signal.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.arguments import finish, number
from lab.experiment.cluster import PATIENCE, Cluster, ExperimentError, patch
from lab.experiment.watching import Observer
from lab.experiment.wording import table
from lab.project import ProjectError, add_arguments, chosen

MODES = ("kubernetes", "etcd", "dns", "native-dns", "passthrough")
SERVERS, CLIENTS = 3, 2
AFTER = 5.0
"""Seconds that are counted after the last old pod has ended."""


@dataclass(frozen=True)
class Transition:
    """One change of the mode. failed: calls by status code.   skipped: calls that were not made, because too many were under way.
    seconds: from `kubectl apply` until the last old pod had ended.   reasons: what the clients said of failed calls, and when: seconds from the
    beginning.   pods: what happened to pods, and when.
    """

    source: str
    target: str
    calls: int
    failed: dict[str, int]
    skipped: int
    seconds: float
    reasons: tuple[tuple[float, str], ...]
    pods: tuple[tuple[float, str, str], ...]


def tour(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Modes in an order that has every pair as neighbors; where a pair does not begin where the one before it ended, one comes between."""
    order = [pairs[0][0]]
    for source, target in pairs:
        order += [target] if source == order[-1] else [source, target]
    return order


def circuit(modes: Sequence[str]) -> list[str]:
    """The shortest tour of all ordered pairs: from the first mode to each other and back, and all tours of the others from the second."""
    first, *others = modes
    if not others:
        return [first]
    back_and_forth = [mode for other in others[1:] for mode in (other, first)]
    return [first, *circuit(others), first, *back_and_forth]


class Transitions:
    """A pair on a cluster that goes from mode to mode, under load."""

    def __init__(self, cluster: Cluster, rate: float) -> None:
        self._cluster, self._names = cluster, {mode: cluster.names(mode) for mode in MODES}
        self._patches = (
            # Without retries, which would hide failed calls; and a deadline that a busy machine keeps.
            cluster.settings("client", CLIENT__RATE=f"{rate / CLIENTS:g}", CLIENT__RETRY__ATTEMPTS="1", CLIENT__TIMEOUT="10s"),
            patch("app.kubernetes.io/component=client", "/spec/replicas", CLIENTS),
        )

    def run(self, order: Sequence[str]) -> Iterator[Transition]:
        """All of them, one after the other. The pair is taken away at the end. Raises ExperimentError."""
        try:
            self._cluster.deploy(order[0], *self._patches)
            observer = Observer(self._cluster)
            try:
                observer.start()
                for source, target in itertools.pairwise(order):
                    yield self._change(observer, source, target)
            finally:
                observer.close()
        finally:
            self._cluster.undeploy()

    def _change(self, observer: Observer, source: str, target: str) -> Transition:
        self._wait(observer, lambda: self._complete(observer))
        already, said, changed, began = len(observer.seconds), len(observer.warnings), len(observer.changes), time.time()
        old_clients = set(observer.ready("client"))
        self._cluster.deploy(target, *self._patches)
        if left := sorted(self._names[source] - self._names[target]):
            self._cluster.kubectl("delete", "--ignore-not-found", "--wait=false", *left)
        self._wait(observer, lambda: self._complete(observer) and old_clients <= observer.stopped)
        seconds = time.time() - began
        time.sleep(AFTER)
        lines = observer.seconds[already:]
        failed = sum((Counter(line.errors) for line in lines), Counter[str]())
        return Transition(
            source,
            target,
            calls=sum(sum(line.served.values()) for line in lines) + failed.total(),
            failed=dict(failed),
            skipped=sum(line.skipped for line in lines),
            seconds=round(seconds, 1),
            reasons=tuple((round(at - began, 1), text) for at, text in observer.warnings[said:]),
            pods=tuple((round(each.at - began, 1), each.pod, each.what) for each in observer.changes[changed:]),
        )

    @staticmethod
    def _complete(observer: Observer) -> bool:
        """Whether all pods are ready, and all of them call or are called, and no other is left."""
        clients = observer.ready("client")
        calling = all(observer.heard.get(client) for client in clients)
        return len(observer.ready()) == SERVERS and len(clients) == CLIENTS and not observer.ending() and calling

    @staticmethod
    def _wait(observer: Observer, condition: Callable[[], bool]) -> None:
        if not observer.wait_for(condition, PATIENCE):
            raise ExperimentError(
                f"after {PATIENCE:.0f} s old pods are left, or new ones are not ready; there are {observer.pods}"
            )


def render(transitions: Sequence[Transition], rate: float, about: str) -> str:
    """The page, in Markdown."""
    rows = [
        (each.source, each.target, str(each.calls), _failed(each), f"{each.seconds:.0f} s")
        for each in sorted(transitions, key=lambda each: (MODES.index(each.source), MODES.index(each.target)))
    ]
    return f"""# Changing the mode under load

`kubectl apply -k deploy/overlays/<mode>` on a pair that runs in another mode: {SERVERS} servers, {CLIENTS} load generators that make {rate:g} calls a second
together, without retries. `make transitions` has run it and has written this page ({about}).

The time is that from the command until the last old pod has ended. All calls of old clients count, and those of new ones from when they are ready, until {AFTER:g} s later. What only the
old overlay names is deleted after the rollout, as `make deploy` does.

{table(("from", "to", "calls", "failed", "complete after"), rows)}
"""


def _failed(transition: Transition) -> str:
    counts = [f"{count} {code}" for code, count in transition.failed.items()]
    return ", ".join(counts + ([f"{transition.skipped} not made"] if transition.skipped else [])) or "0"


def run(arguments: argparse.Namespace) -> int:
    """The status."""
    project = chosen(arguments, "transitions")
    cluster = Cluster(project, arguments.namespace or f"{project.slug}-transitions")
    about, done = cluster.about(), list[Transition]()
    print(f"namespace {cluster.namespace} of {about}", flush=True)
    with cluster.present():
        for each in Transitions(cluster, arguments.rate).run(tour(arguments.pairs)):
            done.append(each)
            print(
                f"{each.source} to {each.target}: {each.calls} calls, failed: {_failed(each)}, {each.seconds:.0f} s", flush=True
            )
            for at, reason in each.reasons:
                print(f"  {at:.1f} s: {reason}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(transition) for transition in done], indent=1), encoding="utf-8")
    if arguments.page:
        arguments.page.write_text(render(done, arguments.rate, about.partition(": ")[2]), encoding="utf-8")
    return int(any(each.failed or each.skipped for each in done))


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m lab.transitions", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.add_argument("--namespace", default="", help="where it is deployed (default: the project's name and -transitions)")
    parser.add_argument(
        "--pairs", type=_pairs, default=_neighbors(circuit(MODES)), help="some of them: etcd:kubernetes,kubernetes:dns"
    )
    parser.add_argument("--rate", type=number(10, 2000), default=200.0, help="calls a second (200)")
    parser.add_argument("--json", type=Path, help="a file for all that was seen")
    parser.add_argument("--page", type=Path, help="a file for the table, in Markdown")
    arguments = parser.parse_args()
    finish("transitions", lambda: run(arguments), ExperimentError, ProjectError)


def _neighbors(order: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(order))


def _pairs(text: str) -> list[tuple[str, str]]:
    """An argument's type: pairs of modes."""
    pairs = [(source, target) for source, _, target in (pair.partition(":") for pair in text.split(","))]
    for source, target in pairs:
        if source == target or not {source, target} <= set(MODES):
            raise argparse.ArgumentTypeError(f"'{source}:{target}' is no pair of {', '.join(MODES)}")
    return pairs


if __name__ == "__main__":
    main()
