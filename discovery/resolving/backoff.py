"""Exponential backoff with full jitter: a random delay below a bound that doubles."""

import random
import time
from collections.abc import Callable

from ..config import Backoff


class BackoffTimer:
    """Call `begin` at each attempt, and `end` for the delay in seconds after it.

    The bound is reset once an attempt has lasted as long as the maximum delay. `clock` and `jitter` (low, high -> seconds) are for
    tests.
    """

    def __init__(
        self,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._backoff = backoff
        self._clock = clock
        self._jitter = jitter
        self._begun = clock()
        self._attempt = 0

    def begin(self) -> None:
        """An attempt starts."""
        self._begun = self._clock()

    def end(self) -> float:
        """The attempt has ended; the seconds to wait."""
        if self._clock() - self._begun >= self._backoff.limit:
            self._attempt = 0
        bound = min(self._backoff.limit, self._backoff.base * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return self._jitter(0.0, bound)
