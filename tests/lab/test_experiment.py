"""The experiment's results are what its records say, and a short one on a real cluster holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bake import ROOT, bake

RESULTS = ROOT / "docs" / "experiment-on-a-cluster"
MODES = ("passthrough", "native-dns", "dns", "kubernetes", "etcd")
AGAIN = """
import sys
from pathlib import Path
from experiment.judgement import judge
from experiment.measure import as_json, measure
from experiment.page import render
from experiment.record import dump
from experiment.results import kept

records = list(kept(Path(sys.argv[1])))
for record in records:
    print(dump(record, as_json(measure(record), judge(record))), end="\\0")
print(render(records), end="")
"""


def test_page_and_tables_are_made_from_the_records() -> None:
    """`make docs` would change nothing: no figure was typed by hand, or has stayed from an older run."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", AGAIN, str(RESULTS)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "template")},
        capture_output=True,
        text=True,
        check=True,
    )
    *records, page = done.stdout.split("\0")
    assert [(RESULTS / f"{mode}.json").read_text() for mode in MODES] == records
    assert (RESULTS / "README.md").read_text() == page
    assert set(re.findall(r"\(([a-z-]+)\.png\)", page)) == {*MODES, "comparison"}


def test_all_modes_were_run_in_full_and_on_one_cluster() -> None:
    """What the page compares is comparable."""
    records = [json.loads((RESULTS / f"{mode}.json").read_text()) for mode in MODES]
    assert not any(record["quick"] or record["skipped"] for record in records)
    assert len({(record["kubernetes"], record["nodes"], record["rate"]) for record in records}) == 1


@pytest.mark.cluster
def test_a_short_experiment_on_a_cluster_holds(tmp_path: Path) -> None:
    """The image is built, the pair deployed, pods come and go and one is killed, and all is taken away again: no call fails, new pods
    are found, and there are a table, a picture and a page of it."""
    project = bake(tmp_path)
    results = tmp_path / "results"
    namespace = f"experiment-{os.getpid()}"
    command = [
        "make", "-C", str(project), "experiment", "MODES=kubernetes", "QUICK=1", f"RESULTS={results}", f"NAMESPACE={namespace}",
        f"VENV={ROOT / 'build' / 'venv'}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        told = json.loads((results / "kubernetes.json").read_text()) if done.returncode < 2 else {}
        assert told, done.stdout + done.stderr
        # How soon is for `make experiment` to judge, on a machine that does nothing else.
        late = [broken for broken in told["outcome"]["broken"] if "the median of" not in broken]
        assert not late, done.stdout
        assert told["outcome"]["failed"] == 0
        assert told["outcome"]["ready_to_first_call"]["called"] == told["outcome"]["ready_to_first_call"]["pods"] == 4
        assert [step["act"] for step in told["steps"]] == ["steady", "scale up", "scale down", "roll out", "retries on", "kill"]
        assert (results / "kubernetes.png").read_bytes().startswith(b"\x89PNG")
        assert "## kubernetes" in (results / "README.md").read_text()
        left = ["kubectl", "-n", namespace, "get", "all", "--selector=app.kubernetes.io/part-of=greeter-pair", "--output=name"]
        assert subprocess.run(left, capture_output=True, text=True, check=True).stdout == ""
    finally:
        subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false", "--ignore-not-found"], check=True)
