"""docs/your-own-service.md of a project does what it says: its own blocks are applied, place by place."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bake import ENVIRONMENT, ROOT, bake, make

from .snippets import Snippet, SnippetError, sections

PAGE = Path("docs/your-own-service.md")
PLACES = (
    "example",
    "RPC",
    "stream",
    "second service",
    "resource",
    "dependency",
    "interceptor",
    "setting",
    "second target",
    "database",
    "server only",
    "client only",
)
"""A word of each title."""
TITLES = list(sections((ROOT / "template" / PAGE).read_text()))


def apply(project: Path, title: str) -> None:
    """All blocks of one place, as they stand in the project's own page."""
    for snippet in sections((project / PAGE).read_text())[title]:
        snippet.apply(project)


def test_every_place_has_a_section() -> None:
    """With blocks that are tried below."""
    for place in PLACES:
        assert any(place.lower() in title.lower() for title in TITLES), place


@pytest.mark.parametrize("title", TITLES)
def test_a_place_is_as_the_page_says(greeter: Path, title: str) -> None:
    """Lint, tests and every overlay are green after it."""
    apply(greeter, title)
    make(greeter, "lint", "test")
    if shutil.which("kubectl"):
        for overlay in (greeter / "deploy" / "overlays").iterdir():
            done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
            assert done.returncode == 0, f"{overlay.name}: {done.stderr}"


def test_the_blocks_fit_a_project_of_another_name(tmp_path: Path) -> None:
    """Lines get other lengths, imports another order."""
    project = bake(tmp_path, project_name="Order History")
    for title in TITLES:
        changed = shutil.copytree(project, tmp_path / title)
        apply(changed, title)
        for command in (["check"], ["format", "--check", "--diff"]):
            ruff = [str(ENVIRONMENT / "bin" / "python"), "-m", "ruff", *command, "."]
            done = subprocess.run(ruff, cwd=changed, capture_output=True, text=True)
            assert done.returncode == 0, f"{title}:\n{done.stdout}"


def test_blocks_are_found_by_section_and_those_without_a_mark_are_only_shown() -> None:
    """The page stays one that people read."""
    page = '# T\n## A place\n```sh\nls\n```\n```python file=a.py after="class A"\nx = 1\n```\n### More\n```sh run\nrm b\n```\n## Other\n'
    assert sections(page) == {
        "A place": [Snippet({"file": "a.py", "after": "class A"}, "x = 1\n", 6), Snippet({"run": ""}, "rm b\n", 10)]
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"append": ""}, "a\nb\nc\nnew\n"),
        ({"overwrite": ""}, "new\n"),
        ({"after": "b"}, "a\nb\nnew\nc\n"),
        ({"before": "b"}, "a\nnew\nb\nc\n"),
        ({"replace": "b"}, "a\nnew\nc\n"),
        ({"replace": "a", "to": "b", "indent": "2"}, "  new\nc\n"),
    ],
)
def test_a_block_changes_a_file(tmp_path: Path, options: dict[str, str], expected: str) -> None:
    """At the line that it names."""
    (tmp_path / "file").write_text("a\nb\nc\n")
    Snippet({"file": "file", **options}, "new\n", 1).apply(tmp_path)
    assert (tmp_path / "file").read_text() == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"file": "file"}, "file is there already"),
        ({"file": "none", "append": ""}, "none is not there"),
        ({"file": "file", "after": "x"}, "0 lines of file contain 'x'"),
        ({"file": "file", "before": "same"}, "2 lines of file contain 'same'"),
        ({"run": ""}, "sh: "),
    ],
)
def test_a_block_that_does_not_fit_is_a_mistake(tmp_path: Path, options: dict[str, str], sentence: str) -> None:
    """The page has gone stale."""
    (tmp_path / "file").write_text("same\nsame\n")
    with pytest.raises(SnippetError, match=sentence):
        Snippet(options, "no-such-command\n", 1).apply(tmp_path)
