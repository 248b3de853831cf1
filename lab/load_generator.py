"""A project's own client as a process: its load generator, read by its JSON log."""

import json
import subprocess
import threading
from typing import Any

from .project import Project, empty_folder


class LoadGenerator:
    """Calls `target` with the project's typed client until it is closed. `settings` are named without the project's prefix."""

    def __init__(self, project: Project, target: str, rate: float, **settings: str) -> None:
        given = {
            "CLIENT__TARGET": target,
            "CLIENT__RATE": f"{rate:g}",
            "CLIENT__HEALTH_HOST": "127.0.0.1",
            "CLIENT__HEALTH_PORT": "0",
            "LOG__FORMAT": "json",
            "LOG__LEVEL": "INFO",
        }
        self._process = subprocess.Popen(
            project.command("client"),
            env=project.environment({**given, **settings}),
            cwd=empty_folder(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[dict[str, Any]] = []
        self._other: list[str] = []
        self._reader = threading.Thread(target=self._read, name="load generator", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._lines.append(json.loads(line))
            except ValueError:
                self._other.append(line.strip())  # what gRPC itself prints, or a sentence about a setting

    def lines(self) -> list[dict[str, Any]]:
        """All lines until now. Raises RuntimeError where the process has ended."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"the load generator has ended with status {status}: {'; '.join(self._other[-3:])}")
        return list(self._lines)

    def seconds(self) -> list[dict[str, Any]]:
        """The lines about a second's calls: `served`, `errors`, `skipped`."""
        return [line for line in self.lines() if "served" in line]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
