"""The experiment without a cluster: what is measured, asserted and written; and how a pair is watched, with a scripted kubectl."""

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.experiment import explanation, page
from lab.experiment.assertions import check
from lab.experiment.cluster import Cluster, requests_in
from lab.experiment.measure import as_json, measure, median, numbers
from lab.experiment.modes import MODES
from lab.experiment.record import Act, Change, Cost, First, Record, Second, Step, dump, load
from lab.experiment.results import rewrite, write
from lab.experiment.watching import Observer
from lab.project import Project

DEADLINE = 60.0
THREE = ("a-1", "a-2", "a-3")
SETTINGS = {"refresh": 5.0, "dns_ttl": 30.0, "age": 30.0, "outage": 60.0, "min_ready": 0.0}


def step(act: Act, began: float, ended: float, pods: int = 3, retries: bool = False) -> Step:
    return Step(act, f"{act} to {pods}", began, began + 1, ended, pods, retries)


def came(pod: str, at: float) -> tuple[Change, Change]:
    """A pod that is created, and ready a second later."""
    return Change(at - 1, pod, "server", "created"), Change(at, pod, "server", "ready")


def called(*pods: str, since: float, until: float, failed: int = 0, each: int = 50) -> Iterator[Second]:
    """A line each second that says that these were called evenly, and how many calls failed in it."""
    for second in range(int(until - since)):
        yield Second(since + second + 1, dict.fromkeys(pods, each), {"UNAVAILABLE": failed} if failed else {}, 0, 5.0)


def record(mode: str, steps: Sequence[Step], seconds: Sequence[Second], changes: Sequence[Change] = (), *firsts: First) -> Record:
    """A short run in which three pods were ready before it began."""
    there = [change for pod in THREE for change in came(pod, -5.0)]
    return Record(
        mode, 200.0, "2026-01-01", "v1.34.0", 1, 0.001, SETTINGS, True, tuple(steps), (*there, *changes), tuple(seconds), firsts
    )


STEADY = step("steady", 0, 10)
EVENLY = tuple(called(*THREE, since=0, until=10))
UP = step("scale up", 10, 20, 4)


def scaled_up(mode: str, late: float | None, failed: int = 0, ended: float = 20) -> Record:
    """A fourth pod is ready at second 12 and called `late` seconds after, if at all."""
    first = () if late is None else (First(12 + late, "a-4"),)
    who = THREE if late is None else (*THREE, "a-4")
    seconds = (*EVENLY, *called(*who, since=10, until=ended, failed=failed))
    return record(mode, [STEADY, replace(UP, ended=ended)], seconds, came("a-4", 12.0), *first)


def failing(mode: str, act: Act, failed: int, retries: bool = True) -> Record:
    """A step in which calls fail."""
    seconds = (*EVENLY, *called(*THREE, since=10, until=20, failed=failed))
    return record(mode, [STEADY, step(act, 10, 20, retries=retries)], seconds)


def broken(run: Record) -> str:
    return "; ".join(outcome.broken for outcome in check(run) if outcome.broken)


def test_a_new_pods_first_call_is_measured_from_its_ready_condition() -> None:
    """Pods that were there before are no samples; one that is never called is none either, and is told."""
    seen = measure(scaled_up("kubernetes", 0.125))
    assert [line.found for line in seen] == [{}, {"a-4": 0.125}]
    assert median(seen) == 0.125
    assert measure(scaled_up("passthrough", None))[1].found == {"a-4": None}


def test_a_pod_that_comes_back_is_no_new_one() -> None:
    """A container that was killed is ready again in the same pod."""
    run = scaled_up("kubernetes", 0.1)
    listed = replace(run, changes=(*run.changes, Change(12.1, "a-4", "server", "listed")))
    assert measure(listed)[1].ready == (*THREE, "a-4")
    again = (Change(15, "a-4", "server", "not ready"), Change(17, "a-4", "server", "ready"))
    run = replace(run, changes=(*run.changes, *again))
    assert measure(run)[1].found == {"a-4": pytest.approx(0.1)}
    assert measure(run)[1].ready == (*THREE, "a-4")


def test_calls_belong_to_the_step_in_which_most_of_their_second_lies() -> None:
    """So a line just after a change still tells of the step before."""
    seconds = [Second(10.4, {"a-1": 7}), Second(10.6, {"a-1": 5}, {"UNAVAILABLE": 1})]
    first, second = measure(record("dns", [STEADY, UP], seconds))
    assert (first.calls, first.failures, second.calls, second.failures) == (7, 0, 6, 1)


def test_a_terminating_pod_is_left_when_it_was_last_called() -> None:
    """To the second, as the log tells."""
    changes = [Change(12, "a-3", "server", "terminating"), Change(22.5, "a-3", "server", "gone")]
    seconds = (*EVENLY, *called(*THREE, since=10, until=14), *called(*THREE[:2], since=14, until=20))
    line = measure(record("dns", [STEADY, step("scale down", 10, 20, 2)], seconds, changes))[1]
    assert line.left == {"a-3": 2.0}
    assert line.ready == THREE[:2]


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (scaled_up("kubernetes", 0.2), ""),
        (scaled_up("etcd", -1.0), ""),
        (scaled_up("kubernetes", 0.3), "the median of 1 new pods got its first call 300 ms after it was ready; it should within 250 ms"),
        (scaled_up("kubernetes", None), "pod 4 became ready, and got no call"),
        (scaled_up("kubernetes", 0.1, failed=1), "10 of 2010 calls failed (UNAVAILABLE 10); none should"),
        (scaled_up("dns", 30.0, ended=50), ""),
        (scaled_up("dns", 38.0, ended=60), "the first call of pod 4 came 38.0 s after it was ready; it should within 37.0 s"),
        (replace(scaled_up("dns", 50.0, ended=70), steps=(STEADY, replace(UP, act="start API", ended=70))), ""),
        (replace(scaled_up("dns", None), steps=(STEADY, replace(UP, act="start API"))), "pod 4 became ready, and got no call"),
        (scaled_up("dns", 1.0, failed=1), ""),
        (scaled_up("native-dns", 60.0, ended=80), ""),
        (scaled_up("native-dns", 80.0, ended=99), "came 80.0 s after it was ready"),
        (scaled_up("native-dns", None), "pod 4 became ready, and got no call"),
        (replace(scaled_up("native-dns", None), steps=(STEADY, replace(UP, act="scale up again"))), ""),
        (replace(scaled_up("native-dns", 2.0), steps=(STEADY, replace(UP, act="scale up again"))), "no connection broke"),
        (scaled_up("passthrough", None), "one connection should reach one pod"),
        (replace(scaled_up("passthrough", None), seconds=tuple(called("a-1", since=0, until=20))), ""),
        (replace(scaled_up("dns", 1.0), seconds=()), "no call was answered"),
        (replace(scaled_up("dns", 1.0), steps=(STEADY, replace(UP, pods=5))), "4 pods were ready at the end, 5 should be"),
        (replace(scaled_up("kubernetes", 0.1), quick=False), "1 new pods got calls; a median of 10 is wanted"),
        (record("dns", [STEADY], [*EVENLY, *called("a-1", since=0, until=9)]), "not spread evenly over 3 pods"),
        (record("dns", [STEADY], tuple(called("a-1", "a-2", since=0, until=9))), "not spread evenly over 3 pods"),
        (record("dns", [STEADY], [*EVENLY, Second(9.9, {"a-1": 1}, {}, 3)]), "3 calls were not made"),
        *[(failing(mode, act, 1), "10 of 1510 calls failed") for mode in MODES for act in ("kill", "stop API", "start API")
          if mode not in ("passthrough", "kubernetes", "etcd")],
        (failing("dns", "roll out", 1, retries=False), ""),
        (failing("native-dns", "scale down", 1, retries=False), ""),
    ],
)  # fmt: skip
def test_a_broken_promise_is_seen(run: Record, sentence: str) -> None:
    """Each rule, kept and broken."""
    found = broken(run)
    assert sentence in found if sentence else not found


@pytest.mark.parametrize("mode", ["kubernetes", "etcd"])
@pytest.mark.parametrize("act", ["kill", "scale down", "roll out", "stop API", "start API", "restart DNS"])
def test_no_call_may_fail_where_changes_are_pushed(mode: str, act: Act) -> None:
    """Whatever happens."""
    assert "10 of 1510 calls failed" in broken(failing(mode, act, 1))
    assert "calls failed" not in broken(failing(mode, act, 0))


def full(mode: str) -> Record:
    """One of every step, and figures that occur nowhere else."""
    acts: tuple[Act, ...] = ("steady", "scale up", "scale down", "roll out", "kill", "stop API", "start API", "scale up again")
    steps = [step(act, 10 * place, 10 * place + 10, 3, retries=place > 3) for place, act in enumerate(acts)]
    changes = [change for place in range(1, 8) for change in came(f"b-{place}", 10 * place + 2)]
    changes += [Change(23, "a-1", "server", "terminating"), Change(36.7, "a-1", "server", "gone")]
    changes += [Change(10 * place + 2 + 0.091, f"b-{place}", "server", "listed") for place in range(1, 8)]
    changes += [Change(60.5, "a-2", "server", "not ready"), Change(68.7, "a-2", "server", "ready")]  # the API server is back
    seconds = [*called(*THREE, since=0, until=30, each=61), *called(*THREE, since=30, until=80, failed=7, each=61)]
    firsts = [First(10 * place + 2.123 + place / 1000, f"b-{place}") for place in range(1, 7)]
    run = record(mode, steps, seconds, changes, *firsts)
    return replace(run, cost=Cost(mode == "kubernetes", 13, 47, 123456), skipped={"restart CoreDNS": "nobody said how"})


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Through its file; a file that is none says so."""
    run = full("dns")
    path = tmp_path / "dns.json"
    path.write_text(dump(run, as_json(measure(run), check(run))))
    assert load(path) == run
    path.write_text('{"mode": "dns"}')
    with pytest.raises(ValueError, match="is no record of an experiment"):
        load(path)


def test_the_page_has_its_figures_from_the_records() -> None:
    """Other records, other figures; none stands in the text itself."""
    text = " ".join(page.render([full(mode) for mode in MODES]).split())
    for figure in (
        "200 calls a second",
        "v1.34.0",
        "1 node",
        "124 ms",
        "91 ms in the median",
        "not ready for up to 8.2 s",
        "13.7 s",
        "47 events",
        "123 kB",
        "1830",
        "nobody said how",
    ):
        assert figure in text, figure
    slower = replace(full("kubernetes"), rate=77.0, cost=Cost(True, 5, 88, 77000))
    slower = replace(slower, firsts=tuple(First(first.at + 5, first.server) for first in slower.firsts))
    other = " ".join(page.render([slower]).split())
    for figure in ("77 calls a second", "5.1 s", "88 events", "77 kB"):
        assert figure in other, figure
    assert "124 ms" not in other
    with pytest.raises(ValueError, match="no record"):
        page.render([])


@pytest.mark.parametrize("module", [page, explanation])
def test_no_figure_is_typed_by_hand(module: object) -> None:
    """In what becomes text there is no digit; formats such as .1f are no text."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    formats = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        for part in ast.walk(node.format_spec)
    }
    written = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in formats]
    texts = [node.value for node in written if isinstance(node.value, str)]
    assert texts
    assert not [text for text in texts if any(letter.isdigit() for letter in text)]


def test_a_folder_of_results_has_page_and_pictures(tmp_path: Path) -> None:
    """Made from the records alone."""
    for mode in ("dns", "kubernetes"):
        write(tmp_path, full(mode))
    rewrite(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.index("## dns") < text.index("## kubernetes")
    for name in ("dns", "kubernetes", "comparison"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "dns.json").read_text())["outcome"]["failed"] == 350


def test_the_api_servers_own_count_is_read() -> None:
    """Requests of the workloads' accounts, all verbs together."""
    metrics = """
apiserver_flowcontrol_dispatched_requests_total{flow_schema="service-accounts",priority_level="workload-low"} 12
apiserver_flowcontrol_dispatched_requests_total{flow_schema="service-accounts",priority_level="other"} 3
apiserver_flowcontrol_dispatched_requests_total{flow_schema="system-nodes",priority_level="system"} 1.5e+03
"""
    assert requests_in(metrics) == 15


KUBECTL = """#!PYTHON
import json, os, sys, time

def pod(name, role, **status):
    labels = {"app.kubernetes.io/component": role}
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": name}, "status": status}

def ready(name, role="server"):
    return pod(name, role, phase="Running", conditions=[{"type": "Ready", "status": "True"}])

def line(second, **told):
    print("2026-01-01T00:00:%02d.5Z" % second, json.dumps(told), flush=True)

arguments, here = sys.argv[2:], os.environ["PLAYED"]
first = not os.path.exists(here + "/again-" + arguments[0])
if "logs" in arguments:
    open(here + "/again-logs", "w").close()
    line(0, served={}, errors={"UNAVAILABLE": 9}, skipped=0)
    line(1, message="ready: calls go to kubernetes:///pair")
    line(2, first="a-1")
    line(3, served={"a-1": 3}, errors={}, skipped=0, p99_ms=1.5)
    print("2026-01-01T00:00:03.6Z E0000 a line of gRPC's own", flush=True)
    if first:
        sys.exit()
    line(4, served={"a-1": 4}, errors={"UNAVAILABLE": 1}, skipped=0)
elif "slices" in arguments[-1]:
    endpoints = [{"targetRef": {"name": name}, "conditions": {"ready": name == "b-1"}} for name in ("b-1", "a-1", "stranger")]
    if "watch" not in arguments[-1]:
        print(json.dumps({"metadata": {"resourceVersion": "7"}, "items": [{"endpoints": None}]}))
        sys.exit()
    for _ in range(10_000):
        print(json.dumps({"type": "MODIFIED", "object": {"endpoints": endpoints}}), flush=True)
        time.sleep(0.05)
elif "watch" not in arguments[-1]:
    pods = [ready("a-1"), ready("client", "client"), ready("etcd", "etcd")]
    gone = [ready("client", "client"), ready("b-1")]
    print(json.dumps({"metadata": {"resourceVersion": "7"}, "items": pods if first else gone}))
    sys.exit()
elif first:
    open(here + "/again-get", "w").close()
    print(json.dumps({"type": "ADDED", "object": pod("a-2", "server", phase="Pending")}), flush=True)
    ending = ready("a-2")
    ending["metadata"]["deletionTimestamp"] = "now"
    for known in (ready("a-2"), ready("a-2"), ending):
        print(json.dumps({"type": "MODIFIED", "object": known}), flush=True)
    print(json.dumps({"type": "DELETED", "object": ending}), flush=True)
    sys.exit()
time.sleep(600)
"""


def test_a_pair_is_watched_through_breaks_of_watch_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed meanwhile is seen when the watch is back, and no line of the log counts twice, nor what a client has counted before it was ready."""
    (tmp_path / "kubectl").write_text(KUBECTL.replace("PYTHON", sys.executable))
    (tmp_path / "kubectl").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(tmp_path))
    observer = Observer(Cluster(Project(tmp_path, "pair", "pair", tmp_path / ".venv"), "here"))
    observer.start()
    try:
        assert observer.wait_for(lambda: len(observer.seconds) == 2 and observer.changes[-1].what == "listed", DEADLINE)
        told_of = observer.events
        assert observer.wait_for(lambda: observer.events > told_of + 2, DEADLINE)
    finally:
        observer.close()
    told = [(change.pod, change.what) for change in observer.changes if change.role == "server"]
    assert told == [
        ("a-1", "created"), ("a-1", "ready"),
        ("a-2", "created"), ("a-2", "ready"), ("a-2", "terminating"), ("a-2", "gone"),
        ("a-1", "gone"), ("b-1", "created"), ("b-1", "ready"), ("b-1", "listed"),
    ]  # fmt: skip
    assert [dict(second.served) for second in observer.seconds] == [{"a-1": 3}, {"a-1": 4}]
    assert [first.server for first in observer.firsts] == ["a-1"]
    assert observer.heard == {"client": {"a-1"}}
    assert observer.events > 0
    assert observer.bytes > 100 * observer.events
    assert abs(observer.changes[0].at - time.time()) < DEADLINE


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--modes", "passthrough,carrier-pigeon"], "'carrier-pigeon' is no mode; there are passthrough"),
        (["--stop-api", "true"], "--stop-api and --start-api (STOP_API, START_API) belong together"),
        (["--rate", "1"], "1 is no number from 10 to 2000"),
        (["--results", "Makefile"], "no file can be written there"),
        ([], "kubectl is not on PATH"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(project: Project, arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """Status 2, as for every command."""
    named = ["--project", str(project.folder), "--venv", str(project.venv)]
    required = [*named, "--namespace", "nowhere", "--results", str(tmp_path / "results")]
    (tmp_path / "make").symlink_to(shutil.which("make") or "make")
    done = subprocess.run(
        [sys.executable, "-m", "lab.experiment", *required, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, sentence in done.stdout + done.stderr) == (2, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_pods_are_numbered_in_the_order_in_which_they_came() -> None:
    """As they are called in tables and pictures."""
    assert numbers(scaled_up("dns", 1.0)) == {"a-1": 1, "a-2": 2, "a-3": 3, "a-4": 4}
