"""The library's own requests on grpc.aio: one thread with an event loop for all of a process, and channels for it."""

import asyncio
import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

logger = logging.getLogger(__package__)

SETTLE = 1.0
"""Maximum seconds after the last `post` for which a fork waits until gRPC's threads have ended."""


def own_channel(
    address: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]] | None = None
) -> grpc.aio.Channel:
    """As `wire.own_channel`, not instrumented; to be opened on the thread."""
    # Where gRPC defines the functions. OpenTelemetry replaces those of grpc.aio by closures that cannot be unwrapped.
    functions: Any = sys.modules["grpc.aio._channel"]
    opened: grpc.aio.Channel
    if credentials is None:
        opened = functions.insecure_channel(address, options)
    else:
        opened = functions.secure_channel(address, credentials, options)
    return opened


def under_gevent() -> bool:
    """Whether threads are greenlets: then grpc.aio's own thread would stop all of them, and this one must not be used."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def post(function: Callable[[], None]) -> None:
    """Run a function on the thread, which starts with the first one. Takes no lock, and does not wait.

    Raises RuntimeError if the system has no thread left: the function runs when `start` has succeeded.
    """
    _threads[-1].notes.append(function)
    _threads[-1].posted = time.monotonic()
    _threads[-1].start()


def start() -> None:
    """Start the thread if it does not run. Raises RuntimeError if the system has no thread left."""
    _threads[-1].start()


def current() -> bool:
    """Whether this is the thread."""
    return _threads[-1].ident == threading.get_ident()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that leaves gRPC's socket to the program's own loops, if there are any.

    grpc.aio wakes all loops of a process by one socket, and whichever loop reads it hands each event to its owner. Reading at once
    would wake this thread for every call that the program makes with grpc.aio, at a third of the call's CPU, and with
    grpcio 1.62 the loser of each race logs a BlockingIOError. So this loop looks once in PAUSE seconds, and reads immediately only after it has
    found the socket unread LOOKS times in a row.
    """

    PAUSE = 0.05
    LOOKS = 3

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        socket = select.poll()
        socket.register(fd, select.POLLIN)
        self._token = token = object()
        wait = super().add_reader
        unread = 0

        def look() -> None:
            nonlocal unread
            if self._token is not token:
                return
            if not socket.poll(0):
                unread = 0
                self.call_later(self.PAUSE, again)
            elif unread < self.LOOKS:
                unread += 1
                self.call_later(self.PAUSE, look)
            else:
                try:
                    callback(*args)
                except BlockingIOError:
                    unread = 0
                wait(fd, readable)

        def again() -> None:
            if self._token is token:  # otherwise the socket may have been closed meanwhile
                wait(fd, readable)

        def readable() -> None:
            super(_Loop, self).remove_reader(fd)
            look()

        wait(fd, readable)

    def remove_reader(self, fd: Any) -> bool:
        self._token = None
        return super().remove_reader(fd)


class _Thread:
    """One thread, what is to be run on it, and its event loop once it has been started."""

    def __init__(self) -> None:
        self.notes: deque[Callable[[], None]] = deque()
        self.posted = 0.0
        self.ident: int | None = None
        self._starting = threading.Lock()  # nobody waits for it
        self._loop: _Loop | None = None

    def start(self) -> None:
        if self._loop is None and self._starting.acquire(blocking=False):
            try:
                self._loop = self._started()
            finally:
                self._starting.release()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._work)

    def _started(self) -> _Loop:
        try:
            loop = _Loop()
        except OSError as error:  # no descriptor left
            raise RuntimeError(f"no event loop: {error}") from error
        try:
            threading.Thread(target=self._run, args=(loop,), name="discovery aio", daemon=True).start()
        except BaseException:
            loop.close()
            raise
        return loop

    def _work(self) -> None:
        while self.notes:
            self.notes.popleft()()

    def _run(self, loop: _Loop) -> None:
        self.ident = threading.get_ident()
        loop.set_debug(False)  # which logs each step of a program's own that takes long
        while True:
            try:
                loop.run_forever()
            except Exception:
                with contextlib.suppress(Exception):
                    logger.exception("the thread for requests with grpc.aio goes on after an error")
                time.sleep(1)


_threads = [_Thread()]  # the last is this process's own


def _before_fork() -> None:
    """gRPC's own thread for grpc.aio ends a moment after the last channel; a child that is forked before that may crash or hang."""
    thread = _threads[-1]
    until = thread.posted + SETTLE
    if time.monotonic() < until and not current():
        for polling in threading.enumerate():
            if "_poll_wrapper" in polling.name:
                polling.join(max(0.0, until - time.monotonic()))
        done = threading.Event()  # this thread holds a lock of gRPC's until that one has ended
        thread.notes.append(done.set)
        with contextlib.suppress(RuntimeError):
            thread.start()
        done.wait(max(0.0, until - time.monotonic()))


def _after_fork() -> None:
    """In the child. The parent's event loop is kept: closing it would take its sockets out of the parent's epoll."""
    _threads.append(_Thread())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
