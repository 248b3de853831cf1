"""A project is kept up to date by cruft, whatever its owner has made of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bake import clean_copy, cookiecutter

from .repositories import IDENTITY, commit_all, git

PACKAGE = "src/billing"
OWNED = ("proto/billing/v1/billing.proto", f"{PACKAGE}/server/servicer.py", f"{PACKAGE}/client/api.py", "tests/test_service.py")
"""What the owner replaces."""


def cruft(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Its command line, in a machine without configuration."""
    environment = {**os.environ, **IDENTITY, "HOME": str(folder.parent / "home")}
    command = [sys.executable, "-m", "cruft", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def edit(path: Path, old: str, new: str) -> None:
    """Replace what stands there once."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """This repository as somebody's clone, which later gets another commit."""
    work = clean_copy(tmp_path / "upstream")
    commit_all(work)
    return work


@pytest.fixture
def project(upstream: Path, tmp_path: Path) -> Path:
    """Made by `cruft create`, with a service of the owner's instead of the example."""
    answers = json.dumps({"project_name": "Billing", "description": 'It\'s "ours" 🎉'})
    made = cruft(tmp_path, "create", f"file://{upstream}", "--no-input", "--extra-context", answers)
    assert made.returncode == 0, made.stdout + made.stderr
    project = tmp_path / "billing"
    commit_all(project)
    assert cruft(project, "check").returncode == 0
    assert cruft(project, "diff").stdout == ""
    for name in OWNED:
        (project / name).write_text("// mine\n")
    edit(project / "Makefile", "\nhelp: ##", "\nmine: ## a target of the owner's\n\t@true\n\nhelp: ##")
    (project / PACKAGE / "pool.py").write_text('"""Mine."""\n')
    commit_all(project)
    return project


def test_an_update_brings_what_upstream_has_changed_and_keeps_what_is_the_owners(upstream: Path, project: Path) -> None:
    """`cruft check` says that there is something, `cruft update` takes it, and nothing is rejected."""
    assert sorted(changed(project)) == sorted([*OWNED, "Makefile"])
    makefile = upstream / "template/Makefile"
    makefile.write_text("# Fixed.\n" + makefile.read_text())
    with (upstream / "discovery/target.py").open("a") as file:
        file.write("\nFIXED = True\n")
    (upstream / "discovery/arrived.py").write_text('"""New."""\n')
    (upstream / "discovery/terminal.py").unlink()
    with (upstream / "template/src/{{cookiecutter.package_name}}/server/drain.py").open("a") as file:
        file.write("\nFIXED = True\n")
    commit = commit_all(upstream)

    assert cruft(project, "check").returncode == 1
    updated = cruft(project, "update", "-y")
    assert updated.returncode == 0, updated.stdout + updated.stderr

    assert not list(project.rglob("*.rej"))
    assert not list(project.rglob("*.orig"))
    for name in OWNED:
        assert (project / name).read_text() == "// mine\n"
    assert (project / PACKAGE / "pool.py").exists()
    assert (project / "Makefile").read_text().startswith("# Fixed.\n")
    assert "\nmine: ##" in (project / "Makefile").read_text()
    assert (project / PACKAGE / "discovery/target.py").read_text() == (upstream / "discovery/target.py").read_text()
    assert (project / PACKAGE / "discovery/arrived.py").exists()
    assert not (project / PACKAGE / "discovery/terminal.py").exists()
    assert (project / PACKAGE / "server/drain.py").read_text().endswith("FIXED = True\n")
    assert json.loads((project / ".cruft.json").read_text())["commit"] == commit
    commit_all(project)
    assert cruft(project, "check").returncode == 0
    assert sorted(changed(project)) == sorted([*OWNED, "Makefile"])
    assert git(project, "status", "--porcelain") == ""


def test_a_project_of_cookiecutters_is_linked_later_and_ignores_what_it_names(upstream: Path, tmp_path: Path) -> None:
    """Here the library, which has become a dependency."""
    made = cookiecutter(upstream, tmp_path, project_name="Billing")
    assert made.returncode == 0, made.stderr
    project = tmp_path / "billing"
    linked = cruft(project, "link", f"file://{upstream}", "--no-input", "--extra-context", '{"project_name": "Billing"}')
    assert linked.returncode == 0, linked.stdout + linked.stderr
    state = json.loads((project / ".cruft.json").read_text())
    (project / ".cruft.json").write_text(json.dumps({**state, "skip": [f"{PACKAGE}/discovery"]}))
    shutil.rmtree(project / PACKAGE / "discovery")
    (project / PACKAGE / "discovery").mkdir()
    (project / PACKAGE / "discovery" / "__init__.py").write_text("from discovery import *\n")
    commit_all(project)
    for path in (upstream / "discovery/__init__.py", upstream / "template/.gitignore"):
        path.write_text(path.read_text() + "# changed\n")
    commit_all(upstream)
    updated = cruft(project, "update", "-y")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert (project / PACKAGE / "discovery" / "__init__.py").read_text() == "from discovery import *\n"
    assert [path.name for path in (project / PACKAGE / "discovery").iterdir()] == ["__init__.py"]
    assert (project / ".gitignore").read_text().endswith("# changed\n")


def changed(project: Path) -> list[str]:
    """The files in which the project differs from what was generated, by `cruft diff`."""
    shown = cruft(project, "diff").stdout.splitlines()
    return [line.split()[-1].partition("/")[2] for line in shown if line.startswith("diff --git ")]
