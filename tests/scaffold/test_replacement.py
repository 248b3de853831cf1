"""Someone replaces the example by a service of their own: four files, and everything that the project can do is theirs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bake import ENVIRONMENT, ROOT, make

from .conftest import alone

REPLACED = {
    "proto/billing/v1/billing.proto": "billing.proto",
    "src/billing/server/servicer.py": "servicer.py.txt",
    "src/billing/client/api.py": "api.py.txt",
    "tests/test_service.py": "test_service.py.txt",
}


@pytest.fixture(scope="session")
def billing(shared: Path, project_of: Callable[[str], Path]) -> Path:
    """GetInvoice, ListInvoices and PayInvoice in a project named Billing."""
    project = shared / "replaced" / "billing"
    with alone(shared / "replaced.lock"):
        if not project.exists():
            shutil.copytree(project_of("billing"), project)
            for name, source in REPLACED.items():
                assert (project / name).exists()
                shutil.copy(Path(__file__).parent / "billing" / source, project / name)
    return project


def test_its_lint_and_its_tests_pass(billing: Path) -> None:
    """Stubs are generated from the new contract on the way."""
    make(billing, "lint", "test")
    assert "GetInvoice" in (billing / "src/billing/v1/billing_pb2_grpc.py").read_text()


def test_every_overlay_is_rendered(billing: Path) -> None:
    """As Argo CD and Flux take it."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl on PATH, and no cluster: https://kubernetes.io/docs/tasks/tools")
    overlays = sorted(path for path in (billing / "deploy/overlays").iterdir())
    assert overlays
    for overlay in overlays:
        done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "billing-server" in done.stdout


def test_the_labs_demo_shows_it(billing: Path, tmp_path: Path) -> None:
    """Servers come and go while its client calls; the lab knows none of its messages."""
    command = [sys.executable, "-m", "lab.demo", "--project", str(billing), "--venv", str(ENVIRONMENT), "--mode", "dns", "--json"]
    command += ["--seconds-per-step", "3", "--slack", "2", "--picture", str(tmp_path / "demo.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads(done.stdout)
