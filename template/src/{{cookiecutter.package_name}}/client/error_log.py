"""Why calls fail, in the log: each reason once a minute at the most, however many calls it costs."""

import logging
import re
import time
from collections.abc import Callable

from ..settings import Tls
from .tls_diagnostics import explain

logger = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds before the same reason is told again."""

MOST = 20
"""Reasons that are told within that time; calls that fail in ever new words must not fill the log."""


class ErrorLog:
    """Told of every call that failed. clock: seconds, for tests."""

    def __init__(self, tls: Tls, clock: Callable[[], float] = time.monotonic) -> None:
        self._tls = tls
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}

    def failed(self, code: str, details: str) -> None:
        """`details` as gRPC gives them; another server's address in them makes no new reason."""
        now = self._clock()
        reason = code, re.sub(r"ipv[46]:\S+:\d+", "a server", details)
        if reason in self._told and self._told[reason] > now - EVERY:
            return
        self._told = {known: told for known, told in self._told.items() if told > now - EVERY}
        if len(self._told) < MOST:
            self._told[reason] = now
            sentence = explain(details, self._tls)
            logger.warning("calls fail: %s: %s", code, f"{sentence} ({details})" if sentence else details)
