"""The last known good set of a target in a file, so that a client can start while the registry is down.

Disabled unless a directory is set. The file is JSON, replaced atomically by rename, so that a crash or a full disk leaves the old one.
A file that cannot be read is ignored.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import Remember
from ..errors import report
from ..snapshot import Endpoint, Health, Snapshot

logger = logging.getLogger(__package__)

VERSION = 1
"""The version of the file's format; other versions are ignored."""


class SnapshotCache:
    """One target's file. Several clients may share a directory: the last one to write wins."""

    def __init__(self, settings: Remember, target: str, registry: str, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry
        self._settings = settings
        self._target = target
        self._clock = clock
        digest = hashlib.sha256(f"{registry} {target}".encode()).hexdigest()
        self.path = Path(settings.directory) / f"{digest[:16]}.json"
        self._complained = False

    def write(self, snapshot: Snapshot) -> None:
        """Write a set, unless it has no usable endpoint. An error is logged once and has no other effect."""
        if not snapshot.usable:
            return
        content = {
            "version": VERSION,
            "target": self._target,
            "written": self._clock(),
            "endpoints": [list(endpoint) for endpoint in sorted(snapshot.endpoints)],
        }
        import tempfile  # it takes long, and few programs keep a file

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix=self.path.stem, dir=self.path.parent)
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(content, file)
                os.replace(name, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
            self._complained = False
        except OSError as error:
            if not self._complained:
                logger.warning("target '%s': the last known good set cannot be kept in %s: %s", self._target, self.path, error)
            self._complained = True

    def read(self) -> Snapshot | None:
        """The cached set, unless it is too old, damaged, or of another target."""
        try:
            content = json.loads(self.path.read_text())
            if (content["version"], content["target"]) != (VERSION, self._target):
                raise ValueError("it belongs to another target or version")
            age = self._clock() - content["written"]
            if age < 0:
                raise ValueError(f"it was written {-age:.0f} s in the future; the clock has been set back")
            if not age <= self._settings.max_age:  # NaN is too old, too
                raise ValueError(f"it is {age:.0f} s old")
            return Snapshot.of(_endpoint(*fields) for fields in content["endpoints"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            reason = f"it holds no {error}" if isinstance(error, KeyError) else error
            logger.warning("target '%s': the last known good set in %s cannot be used: %s", self._target, self.path, reason)
            return None


def _endpoint(
    address: str, port: int, zone: str, weight: int, health: int, name: str, node: str, hints: list[str], metadata: str,
    node_hints: Iterable[str] = (),  # files of version 2.0 do not have it
) -> Endpoint:  # fmt: skip
    for text in (address, zone, name, node, metadata, *hints, *node_hints):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    return Endpoint(address, int(port), zone, int(weight), Health(health), name, node, tuple(hints), metadata, tuple(node_hints))


class CacheWriter:
    """Reads and writes the file of one resolver's target; writes on a thread of its own, so that a disk that hangs stops nothing else.

    registry, current: which registry is read, empty while unknown, and the set to keep, None while there is none.
    """

    def __init__(
        self, settings: Remember, target: str, registry: Callable[[], str], current: Callable[[], Snapshot | None]
    ) -> None:
        self.thread: threading.Thread | None = None
        self._settings = settings
        self._target = target
        self._registry = registry
        self._current = current
        self._cache: SnapshotCache | None = None
        self._changes: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def read(self) -> Snapshot | None:
        """The cached set of this registry, if there is a usable one."""
        cache = self._opened()
        return cache.read() if cache is not None else None

    def wake(self) -> None:
        """The set has changed: write it soon."""
        if self.thread is None:
            thread = threading.Thread(target=self._run, name=f"discovery snapshot cache {self._target}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                report(logger.warning, "target '%s': the last known good set is not kept: %s", self._target, error)
                return
            self.thread = thread
        self._changes.put(True)

    def close(self) -> None:
        """End the thread, after the write in progress."""
        self._changes.put(False)

    def _run(self) -> None:
        going_on = True
        while going_on:
            try:
                # While the source is read, the set is current, however long ago it changed.
                going_on = self._changes.get(timeout=self._settings.max_age / 10)
            except queue.Empty:
                pass
            try:
                cache, current = self._opened(), self._current()
                if going_on and cache is not None and current is not None:
                    cache.write(current)
            except Exception:
                report(logger.exception, "target '%s': the last known good set cannot be kept", self._target)

    def _opened(self) -> SnapshotCache | None:
        registry = self._registry()
        if registry and (self._cache is None or self._cache.registry != registry):
            self._cache = SnapshotCache(self._settings, self._target, registry)
        return self._cache if registry else None
