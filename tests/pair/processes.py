"""Real processes of the pair for tests: started, waited for by an event, ended by their owner."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

PACKAGE = "{{ cookiecutter.package_name }}"
DEADLINE = 30.0
"""Seconds after which a test gives up; nothing is asserted about shorter times."""


class Process:
    """One command of the pair, and what it has printed so far."""

    def __init__(self, role: str, **settings: str) -> None:
        environment = {**os.environ, "PYTHONPATH": "src", "LOG__LEVEL": "INFO", **settings}
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.{role}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._printed = threading.Condition()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._printed:
                self.lines.append(line.rstrip())
                self._printed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line that fits, now or later."""

        def search() -> re.Match[str] | None:
            return next((found for line in self.lines if (found := re.search(pattern, line))), None)

        with self._printed:
            found = self._printed.wait_for(search, DEADLINE)
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


@contextlib.contextmanager
def servers(*names: str, port: str = "0", **settings: str) -> Iterator[dict[str, tuple[Process, str]]]:
    """Server processes by name, each with its address; serving when the block begins, ended after it."""
    running: dict[str, Process] = {}
    try:
        for name in names:
            running[name] = Process("server", SERVER__HOST="127.0.0.1", SERVER__PORT=port, SERVER__NAME=name, **settings)
        yield {name: (process, f"127.0.0.1:{port_of(process)}") for name, process in running.items()}
    finally:
        for process in running.values():
            process.close()


def port_of(process: Process) -> str:
    """The port that a server has logged."""
    return process.wait_for(r"on port (\d+)")[1]
