"""A running pair goes through all modes by `kubectl apply -k` alone, and no call fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.project import fresh

PAIRS = "kubernetes:native-dns,native-dns:etcd,etcd:dns,dns:passthrough,passthrough:kubernetes"
"""Each mode once as the old one, once as the new one; `make transitions` goes through all pairs. From native-dns to etcd is the hardest:
clients that see new servers late, and servers that are replaced at once."""

pytestmark = pytest.mark.cluster


def test_no_call_fails_when_the_mode_changes(tmp_path: Path) -> None:
    """At 200 calls a second, without retries: old and new clients, until the last old pod has ended."""
    project = fresh("test-transitions").install()
    seen = tmp_path / "seen.json"
    command = [
        sys.executable, "-m", "lab.transitions", "--project", str(project.folder), "--venv", str(project.venv), "--pairs", PAIRS,
        "--namespace", f"transitions-{os.getpid()}", "--json", str(seen),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    changes = json.loads(seen.read_text())
    assert [f"{each['source']}:{each['target']}" for each in changes] == PAIRS.split(",")
    assert all(each["calls"] > 100 * each["seconds"] for each in changes), done.stdout
    # A call that exceeds its ten seconds is a matter of a machine without time to spare.
    lost = {f"{each['source']}:{each['target']}": each["failed"].keys() - {"DEADLINE_EXCEEDED"} for each in changes}
    assert not any(lost.values()), done.stdout
