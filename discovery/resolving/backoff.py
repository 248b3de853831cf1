"""How long to wait before something that failed is tried again: full jitter below a bound that doubles."""

import random
import time
from collections.abc import Callable

from ..config import Backoff


class BackoffTimer:
    """One for everything that is begun again and again: `begin` at each attempt, `end` for the seconds to wait after it.

    The bound falls back to its base once an attempt has lived for as long as the longest wait. `clock` and `jitter` (low,
    high -> seconds) are for tests.
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
        """An attempt begins."""
        self._begun = self._clock()

    def end(self) -> float:
        """It has ended; the seconds to wait."""
        if self._clock() - self._begun >= self._backoff.limit:
            self._attempt = 0
        bound = min(self._backoff.limit, self._backoff.base * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return self._jitter(0.0, bound)
