"""The experiment's results are what its records say, and a short one on a real cluster holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.experiment.assertions import check
from lab.experiment.measure import as_json, measure
from lab.experiment.page import render
from lab.experiment.record import dump
from lab.experiment.results import kept
from lab.project import Project

RESULTS = ROOT / "docs" / "experiment-on-a-cluster"
MODES = ("passthrough", "native-dns", "dns", "kubernetes", "etcd")


def test_page_and_tables_are_made_from_the_records() -> None:
    """`make docs` would change nothing: no figure was typed by hand, or has stayed from an older run."""
    records = list(kept(RESULTS))
    assert tuple(record.mode for record in records) == MODES
    for record in records:
        assert (RESULTS / f"{record.mode}.json").read_text() == dump(record, as_json(measure(record), check(record)))
    page = render(records)
    assert (RESULTS / "README.md").read_text() == page
    assert set(re.findall(r"\(([a-z-]+)\.png\)", page)) == {*MODES, "comparison"}


def test_all_modes_were_run_in_full_and_on_one_cluster() -> None:
    """What the page compares is comparable."""
    records = [json.loads((RESULTS / f"{mode}.json").read_text()) for mode in MODES]
    assert not any(record["quick"] or record["skipped"] for record in records)
    assert len({(record["kubernetes"], record["nodes"], record["rate"]) for record in records}) == 1


@pytest.mark.cluster
def test_a_short_experiment_on_a_cluster_holds(project: Project, tmp_path: Path) -> None:
    """The image is built, the pair deployed, pods come and go and one is killed, and all is taken away again: no call fails, new pods
    are found, and there are a table, a picture and a page of it."""
    results = tmp_path / "results"
    namespace = f"experiment-{os.getpid()}"
    command = [
        sys.executable, "-m", "lab.experiment", "--project", str(project.folder), "--venv", str(project.venv), "--modes", "kubernetes",
        "--quick", "--results", str(results), "--namespace", namespace,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        told = json.loads((results / "kubernetes.json").read_text()) if done.returncode < 2 else {}
        assert told, done.stdout + done.stderr
        # How soon is for `make experiment` to check, on a machine that does nothing else.
        late = [broken for broken in told["outcome"]["broken"] if "the median of" not in broken]
        assert not late, done.stdout
        assert told["outcome"]["failed"] == 0
        assert told["outcome"]["ready_to_first_call"]["called"] == told["outcome"]["ready_to_first_call"]["pods"] == 4
        assert [step["act"] for step in told["steps"]] == ["steady", "scale up", "scale down", "roll out", "retries on", "kill"]
        assert (results / "kubernetes.png").read_bytes().startswith(b"\x89PNG")
        assert "## kubernetes" in (results / "README.md").read_text()
        left = ["kubectl", "-n", namespace, "get", "all", f"--selector=app.kubernetes.io/part-of={project.slug}", "--output=name"]
        assert subprocess.run(left, capture_output=True, text=True, check=True).stdout == ""
    finally:
        subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false", "--ignore-not-found"], check=True)
