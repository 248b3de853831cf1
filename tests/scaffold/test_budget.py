"""A project is small enough to own: files and lines of the defaults, without the vendored library, locks and generated stubs."""

from pathlib import Path

import pytest

from tests.bake import bake

FILES, LIBRARY_FILES, PACKAGE_LINES, TEST_LINES, YAML_LINES, SCRIPT_LINES = 105, 71, 1800, 700, 1000, 150
TESTING_FILES = 7
"""Of the library's kit for tests, which no program imports: an owner's tests take servers and registries from it."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it comes out of cookiecutter."""
    return bake(tmp_path_factory.mktemp("budget"))


def files(project: Path, folder: str = ".", pattern: str = "*") -> list[Path]:
    """Those that an owner has to read."""
    library = project / "src/greeter/discovery"
    found = [path for path in (project / folder).rglob(pattern) if path.is_file()]
    return [path for path in found if not path.is_relative_to(library) and path.suffix != ".lock"]


def lines(paths: list[Path]) -> int:
    """All of them, empty ones included."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_the_number_of_files(project: Path) -> None:
    """What one looks through on the first day."""
    assert len(files(project)) <= FILES
    assert (
        len([path for path in (project / "src/greeter/discovery").rglob("*") if path.is_file()]) <= LIBRARY_FILES + TESTING_FILES
    )


@pytest.mark.parametrize(
    ("folder", "pattern", "most"),
    [
        ("src/greeter", "*.py", PACKAGE_LINES),
        ("tests", "*.py", TEST_LINES),
        ("deploy", "*.y*ml", YAML_LINES),
        ("deploy", "*.py", SCRIPT_LINES),
    ],
)
def test_the_number_of_lines(project: Path, folder: str, pattern: str, most: int) -> None:
    """What one reviews."""
    assert 0 < lines(files(project, folder, pattern)) <= most


def test_no_file_is_long(project: Path) -> None:
    """A file has one subject."""
    long = {path.name: lines([path]) for path in files(project, pattern="*.py") if lines([path]) > 260}
    assert not long
