"""Baked projects for tests, and their make targets in one environment that they share."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.bake import ROOT, SLUG, as_old_as_the_template, bake, clean_copy, cookiecutter, run_cookiecutter

__all__ = ["ROOT", "SLUG", "as_old_as_the_template", "bake", "clean_copy", "cookiecutter", "make", "run_cookiecutter", "run_make"]

ENVIRONMENT = ROOT / "build" / "venv"
"""The virtual environment that all baked projects share; `make` of the first one installs it."""


def run_make(project: Path, *arguments: str, venv: Path = ENVIRONMENT, **variables: str) -> subprocess.CompletedProcess[str]:
    """A make target of the project's own, in the shared environment, without what pytest and an outer make export."""
    hidden = ("PYTEST", "PYTHON", "MAKE", "MFLAGS")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    command = ["make", *arguments, f"VENV={venv}"]
    with _one_installs(project):
        return subprocess.run(command, cwd=project, env={**environment, **variables}, capture_output=True, text=True)


def make(project: Path, *arguments: str, venv: Path = ENVIRONMENT) -> str:
    """The same; what it printed. Raises AssertionError with the output's end where it fails."""
    done = run_make(project, *arguments, venv=venv)
    assert done.returncode == 0, f"make {' '.join(arguments)}:\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@contextmanager
def _one_installs(project: Path) -> Iterator[None]:
    """Tests run in several processes; one of them installs the shared environment, the others wait for it."""
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with open(f"{ENVIRONMENT}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        asked = ["make", "-q", f"{ENVIRONMENT}/installed", f"VENV={ENVIRONMENT}"]
        if subprocess.run(asked, cwd=project, capture_output=True).returncode == 0:
            fcntl.flock(file, fcntl.LOCK_UN)
        yield


if __name__ == "__main__":
    bake(Path(sys.argv[1]))
