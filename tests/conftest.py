"""Where a cluster is needed: one line that says how to get one; in CI, which has one, no skip at all."""

import os
import shutil
from collections.abc import Generator

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a cluster where there is none."""
    if item.get_closest_marker("cluster") is None:
        return
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        pytest.skip('needs a cluster: ../shared/cluster/cluster up, then eval "$(../shared/cluster/cluster env)"')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With REQUIRE_CLUSTER set, a cluster's test that skips, for whatever reason, has failed."""
    report = yield
    if report.skipped and item.get_closest_marker("cluster") and os.environ.get("REQUIRE_CLUSTER"):
        report.outcome = "failed"
    return report
