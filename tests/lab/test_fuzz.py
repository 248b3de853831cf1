"""`make fuzz`: it counts what it has tried, and what is broken it finds, shrinks and prints."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bake import ROOT
from lab.fuzz.properties import PROPERTIES

BROKEN = """
from hypothesis import given, strategies as st

@given(st.text())
def test_texts_are_short(text):
    assert len(text) < 3
"""


def fuzz(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a folder of its own, so that what is found is kept there."""
    pytest.importorskip("atheris", reason="atheris is for Linux on x86-64 with Python 3.11 to 3.13")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-B", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


MAIN = "import sys; from lab.fuzz.__main__ import main; sys.exit(main())"


def test_a_property_that_holds_is_tried_as_often_as_was_asked(tmp_path: Path) -> None:
    """Inputs that never reached the property do not count."""
    done = fuzz(tmp_path, MAIN, "cache", "--inputs", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"held    tests\.discovery\.\S+: 200 inputs in \d+ s \(\d+ tried\)\n", done.stdout)


def test_a_property_that_is_broken_is_printed_with_the_smallest_input(tmp_path: Path) -> None:
    """And not lost with the process that has died of it."""
    (tmp_path / "broken.py").write_text(BROKEN)
    code = "from lab.fuzz.__main__ import _hold; print(_hold(['broken:test_texts_are_short'], 100_000))"
    done = fuzz(tmp_path, code)
    assert "BROKEN  broken:test_texts_are_short" in done.stdout, done.stdout + done.stderr
    assert "text='000'" in done.stdout
    assert done.stdout.endswith("False\n")


def test_every_property_that_is_listed_exists() -> None:
    """A test that was renamed would be missed only in the weekly run."""
    for name in (name for names in PROPERTIES.values() for name in names):
        where, _, function = name.rpartition(":")
        if where.startswith("tests.pair."):  # which import a generated package
            assert f"def {function}(" in (ROOT / f"{where.replace('.', '/')}.py").read_text()
        else:
            assert callable(getattr(importlib.import_module(where), function))
