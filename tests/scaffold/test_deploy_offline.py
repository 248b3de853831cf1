"""Every project's own tests of its manifests, where there is kubectl; and what an API server says to each of them."""

import subprocess
from pathlib import Path

import pytest

from tests.bake import bake

from .test_bake import ANSWERS, make

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("answers", ["defaults", "kubernetes-only", "dns-only", "etcd-only", "hostile"])
def test_the_projects_manifests_are_sound(tmp_path: Path, answers: str) -> None:
    """For every set of modes that a project can carry."""
    make(bake(tmp_path, **ANSWERS[answers]), "test", "TESTS=tests/test_manifests.py tests/test_deploying.py")


def test_an_api_server_accepts_every_mode_with_every_component(tmp_path: Path) -> None:
    """Nothing is made."""
    project = bake(tmp_path)
    modes = sorted(path.name for path in (project / "deploy" / "overlays").iterdir())
    assert len(modes) == 6
    for mode in modes:
        components = "COMPONENTS=zones autoscale mtls"
        shown = subprocess.run(
            ["make", "-s", "manifests", f"DISCOVERY={mode}", components], cwd=project, capture_output=True, text=True
        )
        asked = ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"]
        done = subprocess.run(asked, input=shown.stdout, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{mode}: {done.stderr}{shown.stderr}"
        assert done.stdout.count("(server dry run)") >= 12
