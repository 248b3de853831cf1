"""The same rules as in the discovery folder for what needs a registry, and nothing from the shell that a test could depend on."""

import os

from tests.discovery.conftest import pytest_configure, pytest_runtest_makereport, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_runtest_makereport", "pytest_runtest_setup"]

# Variables of `make deploy`, and one by which a process that ends without flushing loses no output.
for name in ("DISCOVERY", "ENV", "ETCD_IMAGE", "IMAGE", "NAMESPACE", "TIMEOUT", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)
