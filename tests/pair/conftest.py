"""The project's package, importable as `greeter`, and settings that come from the test alone."""

import os
import sys
from pathlib import Path

import pytest

from .project import PROJECT

sys.path.insert(0, str(PROJECT.folder / "src"))


@pytest.fixture(autouse=True)
def _no_settings_of_the_developers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a `.env` nor variables count."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PROJECT.prefix)]:
        monkeypatch.delenv(name)
