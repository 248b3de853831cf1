"""The image: its name follows its content, its labels take any text, and nothing is built or pushed that could not be used."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.bake import SLUG, bake

from .rendered import NEEDS_KUBECTL, deploy, project


def copied(folder: Path) -> Path:
    """A project of one's own to change."""
    return shutil.copytree(project(), folder, ignore=shutil.ignore_patterns("__pycache__"))


def tag(folder: Path, **variables: str) -> str:
    """The image that would be deployed."""
    done = deploy("manifests", folder=folder, variables=variables)
    assert done.returncode == 0, done.stderr
    [found] = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("        image: ")}
    return found


@NEEDS_KUBECTL
def test_the_images_name_changes_with_its_content_and_with_nothing_else(tmp_path: Path) -> None:
    """So a changed source rolls the pods, and the same one does not, wherever the project lies and whatever modes its files have."""
    made = copied(tmp_path / "tests" / "src" / SLUG)
    first = tag(made)
    assert first.startswith(f"localhost/{SLUG}:")
    assert first == tag(project())
    package = made / "src" / SLUG
    (package / "tests").mkdir()
    for path in (made / "README.md", package / "tests" / "test_a.py", package / "v1" / f"{SLUG}_pb2.pyi", package / "notes.md"):
        path.write_text("other")
    for path in made.rglob("*"):
        path.chmod(0o700)
    assert tag(made) == first
    assert tag(made, BASE_IMAGE="python:other") != first
    sources = [package / name for name in ("server/servicer.py", f"v1/{SLUG}_pb2.py", "discovery/channel.py", "new.json")]
    for path in (made / "Dockerfile", made / ".dockerignore", made / "requirements" / "image.lock", *sources):
        before = tag(made)
        with path.open("a") as file:
            file.write("\n")
        assert tag(made) != before, path
    assert tag(made, IMAGE="registry/pair:1") == "registry/pair:1"


@pytest.mark.parametrize("description", ['Zoë\'s "Pair" \\ & <co> $HOME', "🦊 invoices, 100 %"])
def test_any_printable_description_labels_the_image(tmp_path: Path, description: str) -> None:
    """As one argument of the tool, whatever quotes are in it."""
    made = bake(tmp_path / "project", description=description)
    (made / "src" / SLUG / "v1").mkdir(exist_ok=True)
    (made / "src" / SLUG / "v1" / f"{SLUG}_pb2.py").touch()
    tool = tmp_path / "docker"
    tool.write_text(f"#!{sys.executable}\nimport sys\nprint(ascii(sys.argv))\n")
    tool.chmod(0o755)
    done = deploy("image", folder=made, variables={"CONTAINER_TOOL": str(tool)})
    assert done.returncode == 0, done.stderr
    assert ascii(f"--label=org.opencontainers.image.description={description}") in done.stdout


def test_an_image_is_not_built_without_the_stubs_of_every_proto(tmp_path: Path) -> None:
    """It would start, and know no message."""
    made = copied(tmp_path / SLUG)
    (made / "src" / SLUG / "v1" / f"{SLUG}_pb2.py").unlink()
    done = deploy("image", folder=made, variables={"CONTAINER_TOOL": "true"})
    assert done.returncode == 1
    assert f"proto/{SLUG}/v1/{SLUG}.proto has no stubs in src to put into the image; make stubs" in done.stderr


def test_an_image_without_a_registry_is_not_pushed() -> None:
    """How to load it is said."""
    done = deploy("push", variables={"IMAGE": "localhost/pair:1"})
    assert done.returncode == 1
    assert re.search("names no registry to push to; set IMAGE=.*, or.* LOAD_IMAGE", done.stderr)
