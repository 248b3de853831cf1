"""Logs why calls fail: each reason at most once a minute, however many calls fail."""

import logging
import re
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds before the same reason is logged again."""

MOST = 20
"""The number of reasons that are logged within that time, so that changing texts do not fill the log."""


class ErrorLog:
    """Call it for every failed call. explain: gRPC's details in, a sentence or nothing out.   clock: seconds, for tests."""

    def __init__(self, explain: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._explain = explain
        self._clock = clock
        self._logged: dict[tuple[str, str], float] = {}

    def failed(self, code: str, details: str) -> None:
        """`details` as gRPC gives them; a different server's address in them is not a new reason."""
        now = self._clock()
        self._logged = {known: at for known, at in self._logged.items() if at > now - INTERVAL}
        reason = code, re.sub(r"ipv[46]:\S+:\d+", "a server", details)
        if reason not in self._logged and len(self._logged) < MOST:
            self._logged[reason] = now
            sentence = self._explain(details)
            logger.warning("calls fail: %s: %s", code, f"{sentence} ({details})" if sentence else details)
