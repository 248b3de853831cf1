"""A project works wherever it lies, and however its owner's machine is set up; with an environment that its own make installs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import bake

from .repositories import commit_all, git


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    """What others make is for nobody else to read."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def make(project: Path, *targets: str, **variables: str) -> str:
    """In the project's own environment, `.venv`. Raises AssertionError with what make printed."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHON", "MAKE", "MFLAGS", "VENV"))
    }
    command = ["make", *targets, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=project, env={**clean, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


def test_in_a_folder_of_an_odd_name_below_tests_in_another_repository(linted: Path, narrow_umask: None, tmp_path: Path) -> None:
    """With PIP_USER=1 and a umask of 077; and nothing that make makes is for git to track, but for the stubs."""
    repository = tmp_path / 'it\'s a (strange) "place" ü'
    project = bake(repository / "tests")
    (repository / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--no-such-option"\n[tool.mypy]\nfiles = ["none"]\n'
    )
    (repository / "conftest.py").write_text("raise RuntimeError('not for this project')\n")
    commit_all(repository)
    shutil.copytree(linted / ".mypy_cache", project / ".mypy_cache")  # to save time
    make(project, "install", "lint", "test", "settings", PIP_USER="1")
    untracked = git(repository, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert all("src/greeter/v1/" in line for line in untracked), untracked
    assert untracked
    make(project, "clean")
    assert not (project / ".venv").exists()


def test_a_clone_with_crlf_conversion_has_no_crlf(tmp_path: Path) -> None:
    """Shell scripts and the Makefile run on the machine of whoever has core.autocrlf=true, and in the image."""
    project = bake(tmp_path / "made")
    commit_all(project)
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(project), "clone")
    found = [path for path in (tmp_path / "clone").rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(found) > 100
    assert not [path for path in found if b"\r\n" in path.read_bytes()]
