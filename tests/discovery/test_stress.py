"""stress.py: what a channel's users do, all at once: it must neither hang, nor end with an old set, nor leave anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.testing import backends

pytest.importorskip("opentelemetry.sdk", reason="metrics are collected by OpenTelemetry's SDK")

SECONDS = float(os.environ.get("STRESS_SECONDS", "12"))
STUCK = float(os.environ.get("STRESS_STUCK", "30"))
"""Seconds without any progress of one thread: a hang, however busy the machine is."""

LIBRARY = os.environ.get("STRESS_LIBRARY", str(Path(__file__).parents[2]))
"""The folder that holds the package discovery: another version of it can be tried."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the stress forks")
def test_everything_at_once(tmp_path: Path) -> None:
    """Threads that open, close and forget channels in cycles, sets of 3 and 1,000, certificates, health, metrics, status, asyncio,
    signals and forks, while the garbage collector runs all the time and threads take turns after 10 microseconds."""
    from .tls_servers import Folder, trustme

    for name in ("first", "second"):
        Folder(tmp_path / "tls" / name, "stress.test", trustme.CA())
    (tmp_path / "tmp").mkdir()
    with backends(("a", "b")) as (a, b):
        done = subprocess.run(
            [
                sys.executable,
                f"{Path(__file__).parent}/stress.py",
                str(SECONDS),
                str(STUCK),
                f"{tmp_path}/tls",
                a.address,
                b.address,
            ],
            env={**os.environ, "PYTHONPATH": LIBRARY, "TMPDIR": f"{tmp_path}/tmp"},
            capture_output=True,
            text=True,
            timeout=SECONDS + 10 * STUCK,
        )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert os.listdir(tmp_path / "tmp") == []
