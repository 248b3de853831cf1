"""static: the list stands in the target."""

from collections.abc import Iterable
from typing import ClassVar

from .registry import Place, Registry

_NEVER = "the list never changes"
_NOTHING = "there is no registry that can fail"


class StaticRegistry(Registry):
    """Lists that are written down before they are opened."""

    name = "static"
    lacks: ClassVar = {
        **dict.fromkeys(("test_changes", "test_burst", "test_equal", "test_empty", "test_many"), _NEVER),
        **dict.fromkeys(("test_down_at_start", "test_down_for_a_while", "test_blips", "test_silent"), _NOTHING),
        "test_malformed": "a malformed entry is rejected with the target",
        "test_two_targets": _NEVER,
        "test_no_endpoint": "an empty list is rejected with the target",
    }

    def __init__(self) -> None:
        self._lists = ["", ""]

    def target(self, service: int = 0) -> str:
        return f"static:///{self._lists[service]}"

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        self._lists[service] = ",".join(f"{address}:{port}" for address, port in wanted)

    def close(self) -> None:
        pass
