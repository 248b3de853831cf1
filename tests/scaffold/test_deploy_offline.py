"""What a real API server says to every overlay and component; nothing is made."""

import subprocess

import pytest

from .rendered import COMPONENTS, MODES, make, project

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("mode", MODES)
def test_an_api_server_accepts_every_mode_with_every_component(mode: str) -> None:
    """With every field checked."""
    shown = make(project(), "manifests", DISCOVERY=mode, COMPONENTS=" ".join(COMPONENTS))
    asked = ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"]
    done = subprocess.run(asked, input=shown, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") >= 12
