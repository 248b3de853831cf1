"""What came of an assertion about one step, of the demo or of the experiment on a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """note: what was seen and why, where that needs a word.   broken: what was not as promised, else empty."""

    note: str = ""
    broken: str = ""
