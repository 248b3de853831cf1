"""Real processes of the pair for tests: started, waited for by an event, ended by their owner."""

import contextlib
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Self

from .project import PROJECT

DEADLINE = 30.0
"""Seconds after which a test gives up; nothing is asserted about shorter times."""


class Process:
    """`python -m greeter.ROLE` in the current folder, and what it has printed so far.

    Settings are named without the prefix. A context manager that kills it. code: what Python runs in the place of the module.
    """

    def __init__(self, role: str, code: str | None = None, **settings: str) -> None:
        self._process = subprocess.Popen(
            PROJECT.command(role) if code is None else [str(PROJECT.python), "-c", code],
            env=PROJECT.environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._printed = threading.Condition()
        self.lines: list[str] = []
        self._all = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._printed:
                self.lines.append(line.rstrip())
                self._printed.notify_all()
        with self._printed:
            self._all = True
            self._printed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line that fits, now or later; fails as soon as no more can come."""

        def search() -> re.Match[str] | None:
            return next((found for line in self.lines if (found := re.search(pattern, line))), None)

        with self._printed:
            self._printed.wait_for(lambda: search() or self._all, DEADLINE)
            found = search()
            assert found, f"no line fits {pattern!r}:\n" + "\n".join(self.lines)
            return found

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; the exit status."""
        status = self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return status

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def servers(*names: str, code: str | None = None, **settings: str) -> Iterator[dict[str, tuple[Process, str]]]:
    """Server processes by name, each with its address; serving when the block begins, ended after it."""
    settings = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", **settings}
    with contextlib.ExitStack() as running:
        processes = {name: running.enter_context(Process("server", code, **{"SERVER__NAME": name, **settings})) for name in names}
        yield {name: (process, f"127.0.0.1:{port_of(process)}") for name, process in processes.items()}


@contextlib.contextmanager
def load_generator(*addresses: str, **settings: str) -> Iterator[Process]:
    """A load generator that calls these servers, or the target in the settings; ended after the block."""
    free = {"CLIENT__HEALTH_HOST": "127.0.0.1", "CLIENT__HEALTH_PORT": "0", "CLIENT__RATE": "50"}
    target = {"CLIENT__TARGET": "static:///" + ",".join(addresses)} if addresses else {}
    with Process("client", **{**free, **target, **settings}) as process:
        yield process


def port_of(process: Process) -> str:
    """The port that a server has logged."""
    return process.wait_for(r"serving as .* on port (\d+)")[1]


def refused(role: str, **settings: str) -> Sequence[str]:
    """What a command prints that cannot start; its status is checked to be that of settings that cannot be used."""
    with Process(role, **{"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", "GRPC_VERBOSITY": "NONE", **settings}) as process:
        assert process.ended() == 2, process.lines
        assert not any("Traceback" in line for line in process.lines)
        return process.lines
