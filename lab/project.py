"""A generated project as the lab uses it: its make targets, its processes, the names of its settings; never its code."""

import argparse
import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bake import ROOT, bake

FRESH = ROOT / "build"
"""Where projects are baked when none is named."""
SHARED_VENV = ROOT / "build" / "venv"
"""The environment that all of these share."""


class ProjectError(Exception):
    """The folder is no generated project, or cannot be used; the text says why, and what to do."""


@dataclass(frozen=True)
class Project:
    """One project. package: its Python package.   slug: what its Kubernetes objects are named after.   venv: its environment."""

    folder: Path
    package: str
    slug: str
    venv: Path

    @classmethod
    def at(cls, folder: Path, venv: Path | None = None) -> "Project":
        """The project in a folder; its environment is the folder's .venv unless another is named. Raises ProjectError."""
        folder = folder.resolve()
        packages = [path.parts[-3] for path in folder.glob("src/*/server/__main__.py")]
        if len(packages) != 1:
            raise ProjectError(
                f"{folder} has {len(packages)} packages with server/__main__.py below src/, where a generated project has one; "
                "name the folder of a generated project"
            )
        try:
            slug = str(tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"])
        except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
            raise ProjectError(f"{folder / 'pyproject.toml'} must give project.name: {error!r}") from None
        return cls(folder, packages[0], slug, (venv or folder / ".venv").absolute())

    @property
    def prefix(self) -> str:
        """What the names of its settings begin with."""
        return f"{self.package.upper()}__"

    @property
    def python(self) -> Path:
        """Its interpreter; there after `install`."""
        return self.venv / "bin" / "python"

    def install(self) -> "Project":
        """Make its environment and stubs where they are absent or out of date. Raises ProjectError."""
        command = self.make_command("install")
        done = subprocess.run(command, env=self.make_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if done.returncode:
            raise ProjectError(f"`{' '.join(command)}` failed with status {done.returncode}; its reasons are above")
        return self

    def make_command(self, target: str, **variables: str) -> list[str]:
        """A make target of the project's."""
        given = [f"{name}={value}" for name, value in {"VENV": str(self.venv), **variables}.items()]
        return ["make", "--no-print-directory", "--silent", "-C", str(self.folder), target, *given]

    @staticmethod
    def make_environment() -> dict[str, str]:
        """Without what a make that started this program hands down: its PROJECT and VENV are not the project's."""
        return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}

    def command(self, role: str, *arguments: str) -> list[str]:
        """The `server` or the `client`, or another module of the package."""
        return [str(self.python), "-m", f"{self.package}.{role}", *arguments]

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """For such a command: these settings, named without the prefix, and none of the caller's own."""
        ours = (self.prefix, "PYTHONDONTWRITEBYTECODE")  # the latter is for template/ in the repository
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "PYTHONPATH": str(self.folder / "src"), **self.prefixed(settings)}

    def prefixed(self, settings: Mapping[str, str]) -> dict[str, str]:
        """These settings under their full names; what is no setting, such as LD_PRELOAD, stays as it is."""
        alone = ("SETTINGS_DIR", "GRPC_OPTIONS")
        return {self.prefix + name if "__" in name or name in alone else name: value for name, value in settings.items()}


@functools.cache
def empty_folder() -> Path:
    """Where processes run, so that no .env of a developer's is read."""
    folder = tempfile.mkdtemp(prefix="lab-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def fresh(name: str) -> Project:
    """A new project with the default answers in build/NAME, not installed yet. Raises ProjectError."""
    shutil.rmtree(FRESH / name, ignore_errors=True)
    try:
        return Project.at(bake(FRESH / name), SHARED_VENV)
    except RuntimeError as error:
        raise ProjectError(f"no project can be baked: {error}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--project and --venv."""
    parser.add_argument("--project", type=Path, help="the folder of a generated project (default: a freshly baked one)")
    parser.add_argument("--venv", type=Path, help="the project's environment (default: its .venv)")


def chosen(arguments: argparse.Namespace, name: str) -> Project:
    """The project that the arguments name, else a fresh one in build/NAME; installed. Raises ProjectError."""
    project = fresh(name) if arguments.project is None else Project.at(arguments.project, arguments.venv)
    return project.install()


def last_lines(text: str, count: int = 4) -> str:
    """What a process said last, in one line."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-count:])
