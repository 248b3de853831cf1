"""Changes of the mode under load, without a cluster: their order, what counts as a failure, and the page."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.project import Project
from lab.transitions import MODES, Transition, circuit, render, tour

DEADLINE = 60.0


def transition(source: str, target: str, failed: dict[str, int], skipped: int = 0) -> Transition:
    return Transition(source, target, 1000, failed, skipped, 20.4, reasons=(), pods=())


def test_the_default_order_has_every_pair_once() -> None:
    """Twenty changes in one deployment, with none between that is not asked for."""
    pairs = list(itertools.pairwise(circuit(MODES)))
    assert sorted(pairs) == sorted(itertools.permutations(MODES, 2))


def test_pairs_that_do_not_meet_are_connected() -> None:
    """Each pair that was asked for is changed, in its order."""
    assert tour([("etcd", "dns"), ("dns", "etcd"), ("kubernetes", "dns")]) == ["etcd", "dns", "etcd", "kubernetes", "dns"]


def test_the_page_has_failures_and_calls_that_were_not_made() -> None:
    """A starved machine is not mistaken for a change that loses no call."""
    page = render([transition("etcd", "dns", {"UNAVAILABLE": 3}, skipped=2), transition("kubernetes", "etcd", {})], 200, "v1")
    assert page.splitlines()[-2:] == [
        "| kubernetes | etcd | 1000 | 0 | 20 s |",
        "| etcd | dns | 1000 | 3 UNAVAILABLE, 2 not made | 20 s |",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pairs", "etcd:pigeon"], "'etcd:pigeon' is no pair of kubernetes, etcd"),
        (["--pairs", "etcd:etcd"], "'etcd:etcd' is no pair of"),
        ([], "kubectl is not on PATH"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(project: Project, arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """Status 2, as for every command."""
    (tmp_path / "make").symlink_to(shutil.which("make") or "make")
    named = ["--project", str(project.folder), "--venv", str(project.venv)]
    done = subprocess.run(
        [sys.executable, "-m", "lab.transitions", *named, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
