"""empty_policy.py: which snapshots are accepted."""

import pytest

from discovery.config import Empty
from discovery.errors import TargetError
from discovery.resolving.empty_policy import decide
from discovery.snapshot import Snapshot

from .fakes import snapshot, unready

SOME, NONE = snapshot(1), snapshot()
nobody = pytest.mark.parametrize("nobody", [NONE, unready(1, 2)], ids=["empty", "unready"])
"""The two forms of a set in which there is nobody to call."""


@pytest.mark.parametrize("policy", ["keep", "fail", "hold:30"])
def test_a_set_with_endpoints_is_believed_whatever_the_policy(policy: str) -> None:
    """Only an empty answer is suspicious."""
    for last in (None, NONE, SOME):
        assert decide(Empty.parse(policy), last, SOME, 0).accepted


@nobody
@pytest.mark.parametrize("policy", ["keep", "fail", "hold:30"])
def test_a_first_set_is_believed_even_if_empty(policy: str, nobody: Snapshot) -> None:
    """There is nothing that could be kept; after a set without anybody to call there is not, either."""
    for last in (None, NONE, unready(3)):
        assert decide(Empty.parse(policy), last, nobody, 0).accepted


@nobody
def test_keep_never_believes_an_empty_answer(nobody: Snapshot) -> None:
    """The policy for registries whose empty answer is more often a fault than the truth."""
    decision = decide(Empty.parse("keep"), SOME, nobody, 1e9)
    assert not decision.accepted
    assert decision.remaining is None


@nobody
def test_fail_believes_an_empty_answer_at_once(nobody: Snapshot) -> None:
    """The policy for a registry whose word is the truth."""
    assert decide(Empty.parse("fail"), SOME, nobody, 0).accepted


@nobody
def test_hold_believes_an_empty_answer_when_it_has_lasted(nobody: Snapshot) -> None:
    """Neither a moment before nor a moment after the time that was set."""
    policy = Empty.parse("hold:30")
    early = decide(policy, SOME, nobody, 29)
    assert (early.accepted, early.remaining) == (False, 1)
    assert decide(policy, SOME, nobody, 30).accepted


@pytest.mark.parametrize("text", ["", "hold", "hold:", "hold:-1", "hold:0", "hold:inf", "hold:nan", "keep:3", "never"])
def test_an_unknown_policy_is_refused(text: str) -> None:
    """The sentence names what was written and what may be written."""
    with pytest.raises(TargetError, match="write keep, fail, or hold:SECONDS"):
        Empty.parse(text)
