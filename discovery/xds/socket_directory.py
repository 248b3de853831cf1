"""The private directory of the control plane's unix socket, and the removal of those that killed processes left.

A process holds an advisory lock (flock) on a file in its directory for as long as it lives. The kernel releases it however the
process ends, so a lock that another process can take means that nobody lives there. That also holds across containers that
share the folder, where process ids mean nothing.
"""

import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Iterator

from ..errors import ControlPlaneError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_PREFIX = "grpc-discovery-"
_SOCKET = "ads"
_LOCK = "lock"
_LONGEST_PATH = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere
_SPECIAL = frozenset("#%,?")  # in an address of gRPC they end the path, or begin another character or address
_ATTEMPTS = 10  # another process's sweep can take a directory between its creation and its lock
_MOST_ENTRIES = 10_000  # of the parent directory that a sweep reads
_MOST_TRIED = 500
_MOST_SWEPT = 30  # a removal takes 0.07 ms
_BEING_MADE = 60.0  # seconds in which a directory may have no lock yet

_held: set[int] = set()
"""The descriptors of locked files, to be closed in a forked child."""


class SocketDirectory:
    """A directory that only this user can enter, whose path stays the same for the life of the process.

    The constructor creates it, and removes directories of processes that are gone. A forked child's copy belongs to the parent:
    `remove` does nothing there, and the child makes one of its own. Methods are called by one thread at a time.

    Raises ControlPlaneError if there is no directory to create it in.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock: int | None = None
        self._path = ""
        tried = []
        for parent in _parents():
            try:
                self._create_in(parent)
            except OSError as error:
                tried.append(f"{parent} ({error.strerror})")
            else:
                sweep(parent)
                return
        raise ControlPlaneError(
            f"no directory for the control plane's socket can be made in {', '.join(tried)}; set TMPDIR to one with a short path"
        )

    @property
    def socket(self) -> str:
        """The path of the socket; whoever listens creates it."""
        return f"{self._path}/{_SOCKET}"

    @property
    def exists(self) -> bool:
        """Whether the socket is still there."""
        return os.path.exists(self.socket)

    def create(self) -> None:
        """Make the directory again, at the same path, if it or its lock is gone.

        Raises ControlPlaneError if that cannot be done, or if the path was taken by another user in the meantime.
        """
        if os.getpid() != self._process:
            raise ControlPlaneError(
                "the directory of the control plane's socket belongs to the process that this one was forked from"
            )
        try:
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._path, 0o700)
                found = os.lstat(self._path)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                    raise ControlPlaneError(f"'{self._path}' was taken by another user, and the control plane's socket was there")
                if self._lock_held() or self._take_lock():
                    return
        except OSError as error:
            raise ControlPlaneError(f"cannot make the directory of the control plane's socket again: {error}") from None
        raise ControlPlaneError(f"'{self._path}' is removed by other processes as often as it is made")

    def remove(self) -> None:
        """Remove the socket and the directory. In a forked child nothing happens."""
        if os.getpid() != self._process:
            return
        with contextlib.suppress(OSError):  # what cannot be removed is left to the next process's sweep
            _remove(self._path)
        self._release()

    def _create_in(self, parent: str) -> None:
        """Raises OSError."""
        for _ in range(_ATTEMPTS):
            self._path = os.path.join(parent, _PREFIX + os.urandom(4).hex())
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path, 0o700)
                try:
                    if self._take_lock():
                        return
                except OSError:  # such as too many open files: nothing stays
                    self.remove()
                    raise
        raise FileExistsError(errno.EEXIST, "the directory is removed as often as it is made", self._path)

    def _take_lock(self) -> bool:
        """Whether the directory is this process's now; not if a sweep was faster. Raises OSError."""
        if fcntl is None:
            return True
        self._release()
        try:
            lock = os.open(f"{self._path}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        self._lock = lock
        _held.add(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: nobody else can take this one either
        return self._lock_held()

    def _lock_held(self) -> bool:
        """Whether the locked file is the one at the path."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.lstat(f"{self._path}/{_LOCK}"))
        except OSError:
            return False

    def _release(self) -> None:
        if self._lock is not None:
            _held.discard(self._lock)
            os.close(self._lock)
            self._lock = None


def sweep(parent: str) -> None:
    """Remove the directories in `parent` that this user's processes left when they were killed.

    A directory without a lock is one that is being made, or one of a version before locks: it is removed only when it is empty, and
    older than a minute. The work is bounded; what is left is for the next process. Errors are ignored: several processes sweep at
    the same time, and a channel must not fail because of what another process left.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = (entry for entry in itertools.islice(entries, _MOST_ENTRIES) if entry.name.startswith(_PREFIX))
        swept = 0
        for entry in itertools.islice(found, _MOST_TRIED):
            with contextlib.suppress(OSError):
                described = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(described.st_mode) and described.st_uid == os.geteuid():
                    _sweep_one(entry.path, time.time() - described.st_mtime)
                    swept += 1
            if swept == _MOST_SWEPT:
                return


def _sweep_one(path: str, age: float) -> None:
    """Raises OSError if it is in use."""
    try:
        lock = os.open(f"{path}/{_LOCK}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if age > _BEING_MADE:
            os.rmdir(path)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A living process may have removed the directory, and made it again, since the lock's file was opened.
        if os.path.samestat(os.fstat(lock), os.lstat(f"{path}/{_LOCK}")):
            _remove(path)
    finally:
        os.close(lock)


def _remove(path: str) -> None:
    """Remove the directory and the files in it, the lock last. Raises OSError."""
    for name in sorted(os.listdir(path), key=lambda name: name == _LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}/{name}")
    os.rmdir(path)


def _parents() -> Iterator[str]:
    """Where the directory may be, best first. A container with a read-only root often has no /tmp, but always /dev/shm."""
    seen = set()
    for parent in (os.environ.get("TMPDIR", ""), "/tmp", "/dev/shm", "/var/tmp", "."):
        try:
            path = os.path.abspath(parent) if parent else ""
        except OSError:  # the working directory was removed
            continue
        fits = len(os.fsencode(path)) + len(f"/{_PREFIX}00000000/{_SOCKET}") <= _LONGEST_PATH
        if path and fits and path not in seen and not _SPECIAL & set(path):
            seen.add(path)
            yield path


def _close_in_child() -> None:
    """The parent's locks are held by its own descriptors; a copy in the child would hold them after the parent's end."""
    for lock in _held:
        with contextlib.suppress(OSError):
            os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
