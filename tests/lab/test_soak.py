"""The long run of lab/benchmarks/soak.py, short: the promises are the same, `make soak` keeps them for minutes."""

from lab.benchmarks import soak
from lab.project import Project


def test_nothing_grows_and_nothing_is_left_under_load(project: Project) -> None:
    """With telemetry, mTLS, limits, and handlers that raise."""
    outcome = soak.run(project, 20)
    assert outcome.held, outcome
