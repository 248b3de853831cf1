"""A running pair goes through all modes by `kubectl apply -k` alone, and no call fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.project import Project, fresh

from .deployed import ETCD_IMAGE, clean_environment

PAIRS = "kubernetes:native-dns,native-dns:etcd,etcd:dns,dns:passthrough,passthrough:kubernetes"
"""Each mode once as the old one, once as the new one; `make transitions` goes through all pairs. From native-dns to etcd is the hardest:
clients that see new servers late, and servers that are replaced at once."""

pytestmark = pytest.mark.cluster


def change(project: Project, pairs: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m lab.transitions` in a namespace of its own, whatever comes of it."""
    command = [
        sys.executable, "-m", "lab.transitions", "--project", str(project.folder), "--venv", str(project.venv), "--pairs", pairs,
        "--namespace", f"transitions-{os.getpid()}-{len(pairs)}", *arguments,
    ]  # fmt: skip
    environment = clean_environment(ETCD_IMAGE=ETCD_IMAGE, **variables)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def test_an_image_that_cannot_be_had_is_said_at_once() -> None:
    """And not after minutes, as a rollout that was not complete in time."""
    done = change(fresh("test-transitions"), "etcd:dns", IMAGE="localhost/nowhere:0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"pods that wait: .*greeter-server-\S+: ImagePullBackOff: .*localhost/nowhere:0", done.stderr), done.stderr


def test_no_call_fails_when_the_mode_changes(tmp_path: Path) -> None:
    """At 200 calls a second, without retries: old and new clients, until the last old pod has ended."""
    seen = tmp_path / "seen.json"
    done = change(fresh("test-transitions").install(), PAIRS, "--json", str(seen))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    changes = json.loads(seen.read_text())
    assert [f"{each['source']}:{each['target']}" for each in changes] == PAIRS.split(",")
    assert all(each["calls"] > 100 * each["seconds"] for each in changes), done.stdout
    # A call that exceeds its ten seconds is a matter of a machine without time to spare.
    lost = {f"{each['source']}:{each['target']}": each["failed"].keys() - {"DEADLINE_EXCEEDED"} for each in changes}
    assert not any(lost.values()), done.stdout
