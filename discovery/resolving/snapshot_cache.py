"""The last known good set of a target in a file, so that a client can start while the registry is down.

Disabled unless a directory is set. The file is JSON, replaced atomically by rename, so that a crash or a full disk leaves the old one.
A file that cannot be read, is another user's, or comes from another registry is ignored.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..config import Remember
from ..errors import printable, report
from ..snapshot import Endpoint, Health, Snapshot

logger = logging.getLogger(__package__)

VERSION = 2
"""The version of the file's format; other versions are ignored."""


class SnapshotCache:
    """The file of one target in one registry. Several clients may share a directory: the last one to write wins."""

    def __init__(self, settings: Remember, target: str, registry: str = "", clock: Callable[[], float] = time.time) -> None:
        self.registry = registry
        self._settings = settings
        self._target = target
        self._clock = clock
        digest = hashlib.sha256(json.dumps([registry, target]).encode()).hexdigest()
        self.path = Path(settings.directory) / f"{digest[:16]}.json"
        self._complained: set[str] = set()  # what has been logged, so that no attempt repeats it

    def write(self, snapshot: Snapshot) -> None:
        """Write a set, unless it has no usable endpoint. An error is logged once and has no other effect."""
        if not snapshot.usable:
            return
        content = {
            "version": VERSION,
            "target": self._target,
            "registry": self.registry,
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
            self._complained.clear()
        except OSError as error:
            self._complain("kept", error)

    def read(self) -> Snapshot | None:
        """The cached set, unless it is too old, damaged, another user's, or of another target or registry."""
        try:
            content = json.loads(self._content())
            if (content["version"], content["target"], content["registry"]) != (VERSION, self._target, self.registry):
                raise ValueError("it belongs to another target, registry or version")
            age = self._clock() - content["written"]
            if age < 0:
                raise ValueError(f"it was written {-age:.0f} s in the future; the clock has been set back")
            if not age <= self._settings.max_age:  # NaN is too old, too
                raise ValueError(f"it is {age:.0f} s old")
            return Snapshot.of(_endpoint(*fields) for fields in content["endpoints"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            self._complain("used", f"it holds no {error}" if isinstance(error, KeyError) else error)
            return None

    def _content(self) -> bytes:
        """The file's bytes. Raises ValueError if it is not a regular file of this user: others could choose the servers."""
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise ValueError("it is no regular file of this process's user")
            with os.fdopen(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)

    def _complain(self, use: str, reason: object) -> None:
        if use not in self._complained:
            text = "target '%s': the last known good set in %s cannot be %s: %s"
            report(logger.warning, text, self._target, self.path, use, printable(str(reason)))
        self._complained.add(use)


def _endpoint(
    address: str, port: int, zone: str, weight: int, health: int, name: str, node: str, hints: list[str], metadata: str,
    node_hints: list[str],
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
