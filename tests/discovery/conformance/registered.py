"""A source that the program registered: a JSON file, replaced as a whole."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from . import json_file
from .registry import Place, Registry

assert json_file


class RegisteredRegistry(Registry):
    """Two files; down is a file that is missing."""

    name = "registered"
    lacks: ClassVar = {"test_silent": "reading a file does not hang"}

    def __init__(self, folder: Path) -> None:
        self._files = [folder / f"{number}.json" for number in range(2)]
        self._entries: list[list[dict[str, Any]]] = [[], []]
        self._down = False

    def target(self, service: int = 0) -> str:
        return f"json-file:///{self._files[service]}"

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        self._entries[service] = [{"address": address, "port": port} for address, port in wanted]
        self._write(service)

    def _write(self, service: int) -> None:
        if not self._down:
            written = self._files[service].with_suffix(".new")
            written.write_text(json.dumps(self._entries[service]))
            os.replace(written, self._files[service])

    def rewrite(self) -> None:
        self._write(0)

    def spoil(self) -> str:
        self._entries[0].append({"address": "10.9.9.9"})
        self._write(0)
        return "entry 2"

    def down(self) -> None:
        self._down = True
        for file in self._files:
            file.unlink(missing_ok=True)

    def up(self) -> None:
        self._down = False
        for service in range(2):
            self._write(service)

    def close(self) -> None:
        self.down()
