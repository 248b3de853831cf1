"""What the library's threads have in common: a lock that knows its holder, functions that never run twice at a time, and a timer.

A finalizer runs on whatever thread allocates memory, in the middle of anything, and a signal handler on the main thread likewise. What
they may call therefore takes no lock: `Timer.post` leaves a note, and the timer's thread does the work.
"""

import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable

from ..errors import report

logger = logging.getLogger(__package__)

_held = threading.local()


class Guard:
    """A reentrant lock for a few assignments: nothing slow runs, and nothing of others is called, while it is held."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        _held.count = getattr(_held, "count", 0) + 1
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()
        _held.count -= 1


def inside_guard() -> bool:
    """Whether this thread holds a Guard, or is about to: a finalizer or signal handler has interrupted it, and must not wait."""
    return bool(getattr(_held, "count", 0))


def in_background(name: str, function: Callable[[], None]) -> None:
    """Run a function that may take a while on a thread of its own; on this one if the system has none left."""

    def run() -> None:
        try:
            function()
        except Exception:
            report(logger.exception, "%s failed", name)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        run()


class Serial:
    """A function that runs on one thread at a time: a call while it runs makes it run once more, on the thread that runs it."""

    __slots__ = ("_again", "_guard", "_running", "_work")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._guard = Guard()
        self._again = False
        self._running = False

    def __call__(self) -> None:
        with self._guard:
            self._again = True
            if self._running:
                return
            self._running = True
        try:
            while self._due():
                self._work()
        except BaseException:  # such as KeyboardInterrupt; the next call runs it
            self._running = False
            raise

    def _due(self) -> bool:
        with self._guard:
            self._running, self._again = self._again, False
            return self._running


class Timer:
    """One daemon thread that runs short functions, at once or at a time. It is started by the first use, and again after a fork."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """In the child: the parent's thread does not exist here, and what it had to do is not the child's."""
        self._guard = Guard()
        self._notes: queue.SimpleQueue[tuple[float, int, Callable[[], None]]] = queue.SimpleQueue()
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> bool:
        """Whether this is the timer's thread."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def start(self) -> None:
        """Make sure that the thread runs. Raises RuntimeError if the system has no thread left."""
        with self._guard:
            if self._thread is not None:
                return
            thread = self._thread = threading.Thread(target=self._run, name="discovery timer", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def post(self, function: Callable[[], None]) -> None:
        """Run a function soon, once the thread runs. Takes no lock, so finalizers and signal handlers may call it."""
        self._notes.put((0.0, next(self._order), function))

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Run a function at `when`, in seconds of time.monotonic()."""
        self._notes.put((when, next(self._order), function))
        try:
            self.start()
        except RuntimeError as error:
            report(logger.error, "no thread for timers: %s; what is due waits for the next one", error)

    def _run(self) -> None:
        notes = self._notes
        due: list[tuple[float, int, Callable[[], None]]] = []
        while True:
            try:
                heapq.heappush(due, notes.get(timeout=max(0.0, due[0][0] - time.monotonic()) if due else None))
            except queue.Empty:
                pass
            while due and due[0][0] <= time.monotonic():
                function = heapq.heappop(due)[2]
                try:
                    function()
                except Exception:
                    report(logger.exception, "a timed function has a bug")
                del function  # what it holds is not kept until the next one


timer = Timer()
"""This process's own."""


class Alarm:
    """Calls a function at a time, or earlier if an earlier time is set meanwhile; the function looks itself at what is due."""

    __slots__ = ("_function", "_when")

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._when = float("inf")

    def at(self, when: float) -> None:
        """Call the function at `when` (time.monotonic()), unless it is called before anyway."""
        if when < self._when:
            self._when = when
            timer.call_at(when, self._ring)

    def _ring(self) -> None:
        self._when = float("inf")
        self._function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=timer.after_fork)
