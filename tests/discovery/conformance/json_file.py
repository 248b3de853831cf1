"""A source of a program's own: the endpoints in a JSON file, read again whenever the file changes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import discovery


class JsonFile:
    """Reads a list such as [{"address": "10.0.0.1", "port": 50051}]."""

    knows_health = False  # the file does not say whether an endpoint is healthy, so the library health-checks it
    empty = discovery.Empty("keep")  # an empty list after a full one is not believed

    def __init__(self, path: Path) -> None:
        self.registry = str(path.parent)  # tells the last known good sets of several registries apart
        self._path = path
        self._closed = threading.Event()

    def watch(self) -> Iterator[discovery.Snapshot]:
        """Yield the whole set, at once and after each change; raise SourceError if it cannot be read."""
        seen = None
        while not self._closed.is_set():
            try:
                state = self._path.stat()
                if seen != (seen := (state.st_ino, state.st_mtime_ns)):
                    yield self._snapshot(json.loads(self._path.read_text()))
            except (OSError, ValueError) as error:
                raise discovery.SourceError(f"{self._path} cannot be read: {error}; write a JSON list to it") from None
            self._closed.wait(0.05)

    def _snapshot(self, entries: object) -> discovery.Snapshot:
        if not isinstance(entries, list):
            raise ValueError("it is no list")
        endpoints, problems = [], []
        for number, entry in enumerate(entries):
            try:
                endpoints.append(discovery.Endpoint(str(entry["address"]), int(entry["port"])))
            except (LookupError, TypeError, ValueError):
                problems.append(f"entry {number} of {self._path} has no address and port")
        return discovery.Snapshot.of(endpoints, problems)

    def close(self) -> None:
        """End `watch`; called from another thread."""
        self._closed.set()


discovery.register("json-file", lambda target, config: JsonFile(Path(target.name)))
