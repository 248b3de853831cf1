"""What comes out of cookiecutter, for every kind of answer; and that it works, by its own make targets."""

import ast
import filecmp
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from hooks.post_gen_project import left_out
from hooks.pre_gen_project import TAKEN
from tests.bake import ROOT, bake

HOSTILE = 'Zoë\'s "Pair" \\ & <co>'
ANSWERS: dict[str, dict[str, str]] = {
    "defaults": {},
    "dns": {"discovery": "dns"},
    "etcd": {"discovery": "etcd"},
    "kubernetes-only": {"registries": "chosen"},
    "dns-only": {"discovery": "dns", "registries": "chosen"},
    "etcd-only": {"discovery": "etcd", "registries": "chosen", "python_version": "3.11"},
    "hostile": {"project_name": HOSTILE, "description": f"It's {HOSTILE}: {{really}}", "package_name": "pair"},
}


@pytest.fixture(scope="session", params=ANSWERS)
def baked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Every set of answers, baked once."""
    name = str(request.param)
    return name, bake(tmp_path_factory.mktemp(name), **ANSWERS[name])


def files(project: Path) -> list[Path]:
    return [path for path in project.rglob("*") if path.is_file()]


def test_no_markup_is_left_and_no_file_is_empty(baked: tuple[str, Path]) -> None:
    """Whatever the answers; discovery must not even mention the tool."""
    _, project = baked
    for path in files(project):
        content = path.read_text(encoding="utf-8")
        assert content.strip() or path.name == "py.typed", f"{path} is empty"
        assert not re.search(r"\{%|cookiecutter", content), path
        # A workflow's own expressions are ${{ }}; discovery is not rendered, so braces of its f-strings may stand there.
        assert not re.search(r"(?<!\$)\{\{", content) or path.is_relative_to(project / "src" / "discovery"), path
    assert not [path for path in project.rglob("*") if "{" in path.name or (path.is_dir() and not any(path.iterdir()))]


def test_everything_parses(baked: tuple[str, Path]) -> None:
    """Whatever quotes are in a name, and what was answered is what is read back."""
    name, project = baked
    for path in files(project):
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), str(path))
        elif path.suffix in (".yaml", ".yml"):
            assert all(isinstance(part, dict) for part in yaml.safe_load_all(path.read_text(encoding="utf-8"))), path
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["name"] == project.name
    assert metadata["description"] == ANSWERS[name].get("description", "A pair of gRPC services on Kubernetes.")
    assert ANSWERS[name].get("project_name", "Greeter Pair") in (project / "README.md").read_text(encoding="utf-8")


def test_discovery_is_byte_for_byte_the_templates_less_what_was_left_out(baked: tuple[str, Path]) -> None:
    """So that it can be developed in place, and taken from any project."""
    name, project = baked
    answers = {"discovery": "kubernetes", "registries": "all", **ANSWERS[name]}
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "template/src/discovery"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {path.removeprefix("template/") for path in tracked if (ROOT / path).exists()} - set(left_out(answers))
    found = {str(path.relative_to(project)) for path in files(project / "src" / "discovery")}
    assert found == expected
    for path in found:
        assert filecmp.cmp(project / path, ROOT / "template" / path, shallow=False), path


def test_the_default_target_is_the_one_that_was_asked_for(baked: tuple[str, Path]) -> None:
    """And a library that no chosen registry needs is no dependency."""
    name, project = baked
    package = ANSWERS[name].get("package_name", project.name.replace("-", "_"))
    scheme = {"kubernetes": "kubernetes", "dns": "dns-poll", "etcd": "etcd"}[ANSWERS[name].get("discovery", "kubernetes")]
    assert f'TARGET = "{scheme}:///{project.name}-server' in (project / "src" / package / "defaults.py").read_text()
    dependencies = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for library, without in {"dnspython": ("kubernetes-only", "etcd-only"), "kubernetes": ("dns-only", "etcd-only")}.items():
        assert any(entry.startswith(library) for entry in dependencies) is (name not in without)
        for lock in ("dev.lock", "image.lock"):
            assert (f"\n{library}==" in (project / "requirements" / lock).read_text()) is (name not in without), lock


def make(project: Path, *arguments: str) -> None:
    """A make target of the project's own, in one virtual environment for all projects."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHONDONTWRITE", "MAKE"))}
    done = subprocess.run(
        ["make", *arguments, f"VENV={ROOT / 'build' / 'venv'}"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"make {' '.join(arguments)}:\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


def test_the_projects_own_lint_passes_and_its_format_changes_nothing(baked: tuple[str, Path]) -> None:
    """Style, strict types and the contract's rules, for every combination of answers."""
    _, project = baked
    make(project, "lint")
    make(project)


def test_the_package_cannot_hide_what_a_project_installs(tmp_path: Path) -> None:
    """Every module that a project's lock brings is refused as the package's name."""
    make(bake(tmp_path), str(ROOT / "build" / "venv" / "installed"))
    listing = "import importlib.metadata, json; print(json.dumps(list(importlib.metadata.packages_distributions())))"
    python = ROOT / "build" / "venv" / "bin" / "python"
    modules = json.loads(subprocess.run([python, "-c", listing], capture_output=True, check=True).stdout)
    assert {module for module in modules if re.fullmatch("[a-z][a-z0-9_]*", module)} <= TAKEN


def test_the_projects_own_tests_pass(baked: tuple[str, Path]) -> None:
    """All of them for the defaults; for the others, those that an answer can change."""
    name, project = baked
    if name == "defaults":
        make(project, "test")
    else:
        changed = [
            "tests/test_settings.py",
            "tests/test_deploying.py",
            "tests/test_stubs.py",
            "src/discovery/tests/test_imports.py",
        ]
        changed += {"kubernetes-only": ["tests/test_demo.py"], "hostile": ["tests/test_server.py"]}.get(name, [])
        make(project, "test", "TESTS=" + " ".join(changed))


def test_there_are_at_most_eight_questions_each_with_its_text() -> None:
    """Nobody reads a ninth."""
    questions = json.loads((ROOT / "cookiecutter.json").read_text())
    asked = [name for name in questions if not name.startswith("_")]
    assert len(asked) <= 8
    assert questions["__prompts__"].keys() == set(asked)
