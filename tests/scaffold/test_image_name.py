"""The image's name: it follows its content, and an image of one's own may have any form."""

import re
import shutil
from pathlib import Path

import pytest

from tests.bake import SLUG, run_make

from .rendered import deploy, project


def copied(folder: Path) -> Path:
    """A project of one's own to change."""
    return shutil.copytree(project(), folder, ignore=shutil.ignore_patterns("__pycache__"))


def name(folder: Path, **variables: str) -> str:
    """The image that would be built."""
    done = deploy("image", folder=folder, variables=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_images_name_changes_with_its_content_and_with_nothing_else(tmp_path: Path) -> None:
    """So a changed source rolls the pods, and the same one does not, wherever the project lies and whatever modes its files have."""
    made = copied(tmp_path / "tests" / "src" / SLUG)
    first = name(made)
    assert re.fullmatch(f"localhost/{SLUG}:[0-9a-f]{{12}}", first)
    assert first == name(project())
    package = made / "src" / SLUG
    (package / "tests").mkdir()
    (package / "__pycache__").mkdir()
    ignored = ("tests/test_a.py", f"v1/{SLUG}_pb2.pyi", "notes.md", "__pycache__/a.pyc", "tool.sh", "a.proto")
    for path in (made / "README.md", made / "deploy" / "more.yaml", *(package / name for name in ignored)):
        path.write_text("other")
    for path in made.rglob("*"):
        path.chmod(0o700)
    assert name(made) == first
    assert name(made, BASE_IMAGE="python:other") != first
    sources = [package / name for name in ("server/servicer.py", f"v1/{SLUG}_pb2.py", "discovery/channel.py", "new.json")]
    for path in (made / "Dockerfile", made / ".dockerignore", made / "requirements" / "image.lock", *sources):
        before = name(made)
        with path.open("a") as file:
            file.write("\n")
        assert name(made) != before, path
    (package / "new.json").rename(package / "renamed.json")
    assert name(made) != before


@pytest.mark.parametrize("rule", ["!assets", "!assets/", "!assets/*.json", "!assets/**"])
def test_what_else_goes_into_the_image_changes_its_name(tmp_path: Path, rule: str) -> None:
    """As .dockerignore says, whatever the owner adds there."""
    made = copied(tmp_path / SLUG)
    (made / "assets").mkdir()
    with (made / ".dockerignore").open("a") as file:
        file.write(f"{rule}\n")
    names = {name(made)}
    for content in ("one", "two"):
        (made / "assets" / "prices.json").write_text(content)
        names.add(name(made))
    assert len(names) == 3


@pytest.mark.parametrize("image", ["pair:1", "registry.example.com:5000/team/pair:1.2", f"localhost/pair@sha256:{'a' * 64}"])
def test_an_image_of_ones_own_is_taken_as_it_is(image: str) -> None:
    """To build, to push, to load."""
    assert name(project(), IMAGE=image) == image
    for target in ("push", "load"):
        done = run_make(project(), "-s", target, IMAGE=image, CONTAINER_TOOL="echo", LOAD_IMAGE="echo load")
        assert done.stdout.removeprefix(f"{target} ") == f"{image}\n", done.stderr


@pytest.mark.parametrize(
    ("target", "variables", "reason"),
    [
        ("image", {"CONTAINER_TOOL": ""}, "none of docker, podman, and buildah is on PATH"),
        ("load", {"LOAD_IMAGE": ""}, "set LOAD_IMAGE to the command that loads an image into the cluster"),
    ],
)
def test_what_is_missing_is_said(target: str, variables: dict[str, str], reason: str) -> None:
    """In one sentence."""
    done = run_make(project(), "-s", target, *(f"{name}={value}" for name, value in variables.items()))
    assert done.returncode != 0
    assert reason in done.stderr
