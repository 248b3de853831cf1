"""A judgement on one step, of the demo or of the experiment on a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """About one step. note: what was seen and why, where that needs a word.   broken: what was not as promised, else empty."""

    note: str = ""
    broken: str = ""
