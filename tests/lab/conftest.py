"""One project for all tests of the lab."""

import pytest

from lab.project import Project, fresh


@pytest.fixture(scope="session")
def project(worker_id: str) -> Project:
    """A fresh project with the default answers, installed; one for each process of pytest-xdist."""
    return fresh(f"test-lab-{worker_id}").install()
