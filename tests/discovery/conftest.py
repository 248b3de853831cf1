"""What needs a registry that is not here is skipped, with one line that says how to get it; where it is required, it fails."""

import os
import shutil
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("here", max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 100)), deadline=None)
settings.load_profile("here")

MARKERS = {
    "cluster": "needs a Kubernetes cluster: kubectl on PATH and KUBECONFIG set, to what `kind create cluster` makes for example",
    "etcd": "needs etcd 3.4 or newer on PATH: apt-get install etcd-server, or a binary from etcd's releases",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def here(name: str) -> bool:
    """Whether the registry is."""
    if name == "etcd":
        return shutil.which("etcd") is not None
    return bool(os.environ.get("KUBECONFIG")) and shutil.which("kubectl") is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, meaning in MARKERS.items():
        if item.get_closest_marker(name) and not here(name):
            pytest.skip(meaning)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With REQUIRE_REGISTRIES=etcd,cluster a test of theirs that skips, for whatever reason, has failed."""
    report = yield
    required = os.environ.get("REQUIRE_REGISTRIES", "").split(",")
    if report.skipped and any(name in required and item.get_closest_marker(name) for name in MARKERS):
        report.outcome = "failed"
    return report
