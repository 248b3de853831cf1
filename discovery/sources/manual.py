"""A set that the program itself sets: `Manual.set` in, snapshots out (scheme manual)."""

import os
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..config import Config, Empty
from ..errors import TargetError
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..target import Target, parse


class _Board:
    """The last set of one name, and the sources that read it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.snapshot: Snapshot | None = None
        self._readers: tuple[weakref.ref[ManualSource], ...] = ()

    def attach(self, reader: "ManualSource") -> None:
        with self.lock:
            self._readers = (*(each for each in self._readers if each() is not None), weakref.ref(reader))

    def publish(self, snapshot: Snapshot) -> None:
        with self.lock:
            self.snapshot = snapshot
            for each in self._readers:
                reader = each()
                if reader is not None:
                    reader.changes.put(True)


_boards: dict[str, _Board] = {}  # by name; the channel or the program may come first


def _board(name: str) -> _Board:
    return _boards.get(name) or _boards.setdefault(name, _Board())


def _after_fork() -> None:
    """In the child: a lock may be held by a thread of the parent."""
    for board in _boards.values():
        board.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        self._board.publish(snapshot)


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
        self.changes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._board = board
        self._closed = False
        board.attach(self)

    def watch(self) -> Iterator[Snapshot]:
        last = None
        while not self._closed:
            snapshot = self._board.snapshot
            if snapshot is not None and snapshot is not last:
                yield (last := snapshot)
            else:
                self.changes.get()

    def close(self) -> None:
        self._closed = True
        self.changes.put(False)


def open_source(target: Target, config: Config) -> ManualSource:
    """The source of a `manual:///name` target; it has no settings."""
    del config
    return ManualSource(_board(target.name))
