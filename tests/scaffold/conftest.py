"""Baked projects that many tests look at, each made once in a run, whatever the number of pytest's workers."""

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bake import bake, clean_copy, make, run_make

from .environments import PIP, run

ANSWERS: dict[str, dict[str, str]] = {
    "defaults": {},
    "dns": {"discovery": "dns", "project_name": "Ab", "python_version": "3.12"},
    "etcd": {"discovery": "etcd", "project_name": "Order History of All Customers Anywhere"},
    "billing": {"project_name": "Billing"},
    "hostile": {
        "project_name": 'Zoë\'s "Café" \\ & <co> 🎉',
        "description": 'It\'s "ours": \\ {really} & <co> # 👩\u200d💻 🎉 ${x} %s `y` \\N ',
        "package_name": "zebra",
    },
}
"""Short, long and odd names besides the defaults: lines get other lengths, and imports another order."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One folder for all workers of a run."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """No other process is in here for the same file."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def project_of(shared: Path) -> Callable[[str], Path]:
    """The project for one of ANSWERS, with stubs and what `make lint` caches. Tests do not change it."""

    def made(name: str) -> Path:
        output = shared / f"project-{name}"
        with alone(shared / f"{name}.lock"):
            if not output.exists():
                bake(output, **ANSWERS[name])
        return next(output.iterdir())

    return made


@pytest.fixture(scope="session")
def linted(shared: Path, project_of: Callable[[str], Path]) -> Path:
    """A default project in which mypy has run, so that it has little to do in the copies; whether it found something is another test's."""
    project = project_of("defaults")
    with alone(shared / "linted.lock"):
        if not (project / ".mypy_cache").exists():
            run_make(project, "lint")
    return project


@pytest.fixture
def greeter(linted: Path, tmp_path: Path) -> Path:
    """A default project of the test's own."""
    return shutil.copytree(linted, tmp_path / "greeter", symlinks=True)


@pytest.fixture(scope="session")
def wheels(shared: Path, project_of: Callable[[str], Path]) -> dict[str, Path]:
    """Of two projects, in shared/project-billing and shared/shipping, and of the library; by the name of the distribution."""
    folder = shared / "wheels"
    with alone(shared / "wheels.lock"):
        if not folder.exists():
            billing, shipping = project_of("billing"), bake(shared / "shipping", project_name="Shipping")
            for project in (billing, shipping):
                make(project, "stubs")
            sources = (billing, shipping, clean_copy(shared / "library"))
            run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, *sources)
    return {path.name.partition("-")[0]: path for path in folder.iterdir()}
