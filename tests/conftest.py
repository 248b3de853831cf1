"""The same rules as in the discovery folder for what needs a registry."""

from tests.discovery.conftest import pytest_configure, pytest_runtest_makereport, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_runtest_makereport", "pytest_runtest_setup"]
