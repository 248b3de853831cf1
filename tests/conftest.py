"""Where a cluster is needed: one line that says how to get one, or in CI an error."""

import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a cluster where there is none."""
    if item.get_closest_marker("cluster") is None:
        return
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        advice = 'needs a cluster: ../shared/cluster/cluster up, then eval "$(../shared/cluster/cluster env)"'
        if os.environ.get("REQUIRE_CLUSTER"):
            pytest.fail(advice)
        pytest.skip(advice)
