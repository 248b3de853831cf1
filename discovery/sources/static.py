"""A list that is written in the target itself (scheme static)."""

import socket
import threading
from collections.abc import Iterator
from typing import ClassVar

from ..config import Config, Empty
from ..errors import SourceError
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..target import Target


class StaticSource:
    """IP literals as they are; host names are resolved once, by the system, to all their addresses."""

    knows_health: ClassVar[bool] = False
    empty: ClassVar[Empty] = Empty("fail")
    registry = "the target itself"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._closed = threading.Event()

    def watch(self) -> Iterator[Snapshot]:
        if self._closed.is_set():
            return
        yield Snapshot.of(endpoint for item in self._target.name.split(",") for endpoint in self._look_up(item))
        self._closed.wait()

    def _look_up(self, item: str) -> Iterator[Endpoint]:
        host, port = parse_authority(item)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
            raise SourceError(f"'{host}' cannot be looked up: {error}") from None
        for address in dict.fromkeys(str(information[4][0]) for information in found):
            yield Endpoint(address, port, name=item if address != host else "")

    def close(self) -> None:
        self._closed.set()


def open_source(target: Target, config: Config) -> StaticSource:
    """The source of a `static:///host:port,host:port` target; it has no settings."""
    del config
    return StaticSource(target)
