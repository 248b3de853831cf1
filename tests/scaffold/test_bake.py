"""What comes out of cookiecutter, for every kind of answer; and that it works, by its own make targets."""

import ast
import filecmp
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hooks.pre_gen_project import TAKEN
from tests.bake import ENVIRONMENT, ROOT, make

from .conftest import ANSWERS

PYTHON = ENVIRONMENT / "bin" / "python"


@pytest.fixture(params=ANSWERS)
def baked(request: pytest.FixtureRequest, project_of: Callable[[str], Path]) -> tuple[str, Path]:
    """Every set of answers."""
    return request.param, project_of(request.param)


def package_of(project: Path) -> Path:
    """The folder of its package."""
    return next(project.glob("src/*/server")).parent


def files(project: Path) -> list[Path]:
    """What was baked: not what make has added since, nor the library."""
    made = (".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__", "v1")
    library = package_of(project) / "discovery"
    return [
        path
        for path in sorted(project.rglob("*"))
        if path.is_file()
        and not path.is_relative_to(library)
        and not (set(path.relative_to(project).parts) & set(made) and "proto" not in path.parts)
    ]


def test_no_markup_is_left_and_no_file_is_empty(baked: tuple[str, Path]) -> None:
    """Whatever the answers."""
    _, project = baked
    for path in files(project):
        content = path.read_text(encoding="utf-8")
        assert content.strip() or path.name in ("py.typed", "__init__.py"), f"{path} is empty"
        assert not re.search(r"\{%|\{#|cookiecutter\.", content.replace("${x}", "")), path
        # A workflow's own expressions are ${{ }}; templates of Go's begin with a field, a parenthesis, or a variable; Grafana's are {{label}}.
        assert not re.search(r"(?<!\$)\{\{(?![.(]| ?\$|\w+\}\})", content), path
    assert not [path for path in project.rglob("*") if "{" in path.name or (path.is_dir() and not any(path.iterdir()))]


def test_everything_parses(baked: tuple[str, Path]) -> None:
    """Whatever is in a name or a description, and what was answered is what is read back."""
    name, project = baked
    answers = ANSWERS[name]
    for path in files(project):
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), str(path))
        elif path.suffix in (".yaml", ".yml"):
            assert all(isinstance(part, dict) for part in yaml.safe_load_all(path.read_text(encoding="utf-8"))), path
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    description = answers.get("description", "A gRPC service and its client on Kubernetes.")
    assert metadata["name"] == project.name
    assert metadata["description"] == description
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {answers.get('project_name', 'Greeter')}\n")
    assert description in readme


def test_the_library_is_byte_for_byte_the_repositorys(baked: tuple[str, Path]) -> None:
    """So that it can be compared, and taken from any project; without tests."""
    _, project = baked
    library = package_of(project) / "discovery"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "discovery"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = {name for name in listed.stdout.split() if (ROOT / name).exists()}
    found = {
        f"discovery/{path.relative_to(library)}"
        for path in library.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected
    assert "discovery/py.typed" in found
    assert not [name for name in found if "test_" in name or "cookiecutter" in (ROOT / name).read_text()]
    for name in found:
        assert filecmp.cmp(library.parent / name, ROOT / name, shallow=False), name


def test_the_default_target_is_the_one_that_was_asked_for(baked: tuple[str, Path]) -> None:
    """Every project can read all registries; the answer is where it begins."""
    name, project = baked
    scheme = {"kubernetes": "kubernetes", "dns": "dns-poll", "etcd": "etcd"}[ANSWERS[name].get("discovery", "kubernetes")]
    assert f'TARGET = "{scheme}:///{project.name}-server' in (package_of(project) / "defaults.py").read_text()
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"dns", "kubernetes", "server"} <= extras.keys()


def test_names_come_from_the_package(project_of: Callable[[str], Path]) -> None:
    """Of the contract, the settings, the classes."""
    project = project_of("etcd")
    package = "order_history_of_all_customers_anywhere"
    contract = (project / "proto" / package / "v1" / f"{package}.proto").read_text()
    assert f"package {package}.v1;" in contract
    assert "service OrderHistoryOfAllCustomersAnywhereService {" in contract
    assert "class OrderHistoryOfAllCustomersAnywhereClient(" in (project / "src" / package / "client/api.py").read_text()


def test_only_four_files_name_a_message_or_a_method_of_the_example(project_of: Callable[[str], Path]) -> None:
    """They are what the owner replaces; one page says how."""
    project = project_of("billing")
    naming = {str(path.relative_to(project)) for path in files(project) if re.search("greet", path.read_text(), re.IGNORECASE)}
    owned = {
        "proto/billing/v1/billing.proto",
        "src/billing/server/servicer.py",
        "src/billing/client/api.py",
        "tests/test_service.py",
    }
    assert owned <= naming <= owned | {"docs/your-own-service.md"}


def test_ruff_finds_nothing_whatever_the_length_of_the_names(baked: tuple[str, Path]) -> None:
    """Style, and a form that `make format` would leave as it is."""
    _, project = baked
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run([PYTHON, "-m", "ruff", *command, "."], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_projects_own_lint_and_tests_pass(linted: Path) -> None:
    """Style, strict types, the contract's rules, and all tests; its format changes nothing."""
    before = {path: path.read_bytes() for path in files(linted)}
    make(linted, "lint", "test")
    make(linted, "format")
    make(linted)
    assert {path: path.read_bytes() for path in files(linted)} == before


@pytest.mark.parametrize(
    ("name", "tests"),
    [("hostile", ""), ("dns", "tests/test_settings.py"), ("etcd", "tests/test_settings.py tests/test_manifests.py")],
)
def test_the_tests_that_an_answer_can_change_pass(name: str, tests: str, project_of: Callable[[str], Path]) -> None:
    """Those that know the default target, and how long Kubernetes' names may be; all of them with odd names."""
    make(project_of(name), "test", f"TESTS={tests}")


def test_the_package_cannot_hide_what_a_project_installs(linted: Path) -> None:
    """Every module that a project's lock brings is refused as the package's name."""
    listing = "import importlib.metadata, json; print(json.dumps(list(importlib.metadata.packages_distributions())))"
    modules = json.loads(subprocess.run([PYTHON, "-c", listing], capture_output=True, check=True).stdout)
    assert {module for module in modules if re.fullmatch("[a-z][a-z0-9_]*", module)} <= TAKEN


def test_the_package_cannot_hide_what_lies_beside_it(project_of: Callable[[str], Path]) -> None:
    """Folders at the root of a project can be imported too."""
    project = project_of("defaults")
    folders = {path.name for path in project.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders - {"certs"} <= TAKEN
    assert "discovery" in TAKEN


def test_there_are_at_most_eight_questions_each_with_its_text() -> None:
    """Nobody reads a ninth."""
    questions = json.loads((ROOT / "cookiecutter.json").read_text())
    asked = [name for name in questions if not name.startswith("_")]
    assert len(asked) <= 8
    assert questions["__prompts__"].keys() == set(asked)
