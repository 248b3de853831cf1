"""The project that the tests are about: baked with the default answers once a test process, and installed."""

import atexit
import shutil
import tempfile
from pathlib import Path

from lab.project import Project
from tests.bake import ENVIRONMENT, bake, make


def _fresh() -> Project:
    folder = Path(tempfile.mkdtemp(prefix="pair-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    project = Project.at(bake(folder), ENVIRONMENT)
    make(project.folder, "install")
    return project


PROJECT = _fresh()
