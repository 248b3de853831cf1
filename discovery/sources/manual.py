"""A set that the program itself sets: `Manual.set` in, snapshots out (scheme manual)."""

import threading
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..config import Config, Empty
from ..errors import TargetError
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..target import Target, parse


class _Board:
    """The last set of one name, and a version by which a watcher detects a new one."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.snapshot: Snapshot | None = None
        self.version = 0


_boards: dict[str, _Board] = {}  # by name; the channel or the program may come first
_boards_lock = threading.Lock()


def _board(name: str) -> _Board:
    with _boards_lock:
        return _boards.setdefault(name, _Board())


class Manual:
    """The writing side of `manual:///name`: for tests, for demos, and for a registry without a source.

    Raises TargetError for a name that is not valid in a target.
    """

    def __init__(self, name: str) -> None:
        self.target = f"manual:///{name}"
        self._board = _board(parse(self.target).name)

    def set(self, endpoints: Iterable[Endpoint | str]) -> None:
        """Replace the whole set; text is parsed as `host:port`. Channels use it within milliseconds.

        An empty set is accepted unless the channel's Config says otherwise. Raises TargetError, and changes nothing, if an entry is
        invalid.
        """
        snapshot = Snapshot.of([_endpoint(item) for item in endpoints], last=self._board.snapshot)
        if snapshot.problems:
            raise TargetError(f"{self.target}: {snapshot.problems[0]}")
        with self._board.changed:
            self._board.snapshot = snapshot
            self._board.version += 1
            self._board.changed.notify_all()


def _endpoint(item: Endpoint | str) -> Endpoint:
    if isinstance(item, Endpoint):
        return item
    try:
        return Endpoint(*parse_authority(item))
    except ValueError as error:
        raise TargetError(str(error)) from None


class ManualSource:
    """The reading side; waits until the program has set something."""

    knows_health: ClassVar[bool] = True
    empty: ClassVar[Empty] = Empty("fail")
    registry = "this program"

    def __init__(self, board: _Board) -> None:
        self._board = board
        self._closed = False

    def watch(self) -> Iterator[Snapshot]:
        seen = 0
        while True:
            with self._board.changed:
                while not self._closed and self._board.version <= seen:
                    self._board.changed.wait()
                if self._closed:
                    return
                seen, snapshot = self._board.version, self._board.snapshot
            if snapshot is not None:
                yield snapshot

    def close(self) -> None:
        with self._board.changed:
            self._closed = True
            self._board.changed.notify_all()


def open_source(target: Target, config: Config) -> ManualSource:
    """The source of a `manual:///name` target; it has no settings."""
    del config
    return ManualSource(_board(target.name))
