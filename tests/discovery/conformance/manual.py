"""manual: the program itself is the registry."""

import uuid
from collections.abc import Iterable
from typing import ClassVar

from discovery.snapshot import Endpoint
from discovery.sources.manual import Manual

from .registry import Place, Registry


class ManualRegistry(Registry):
    """Two names of its own."""

    name = "manual"
    lacks: ClassVar = {
        **dict.fromkeys(
            ("test_down_at_start", "test_down_for_a_while", "test_blips", "test_silent"),
            "the program sets the list itself; nothing in between can fail",
        ),
        "test_malformed": "a malformed entry is rejected with the whole set, because the caller can fix it",
    }

    def __init__(self) -> None:
        self._names = [Manual(uuid.uuid4().hex) for _ in range(2)]
        self._last: list[Endpoint | str] = []

    def target(self, service: int = 0) -> str:
        return self._names[service].target

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        self._last = [Endpoint(*place) for place in wanted]
        self._names[service].set(self._last)

    def rewrite(self) -> None:
        self._names[0].set(self._last)

    def close(self) -> None:
        for name in self._names:
            name.set([])
