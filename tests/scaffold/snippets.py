"""Fenced blocks of a page that say in their info string what to do with a file, and their application to a project.

    ```python file=src/greeter/server/servicer.py after="class GreeterServicer"

`file=` alone creates a file; with `overwrite`, `append`, `after="text"`, `before="text"`, `replace="text"` or `replace="text" to="text"`
it is changed at the only line that contains the text. `indent=4` indents the block. A block ```` ```sh run ```` is executed.
"""

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class SnippetError(Exception):
    """A block cannot be applied; the text says which, and why."""


@dataclass(frozen=True)
class Snippet:
    """One block. options: what its info string says, a word alone with an empty value.   line: where it stands in the page."""

    options: dict[str, str]
    text: str
    line: int

    def apply(self, project: Path) -> None:
        """Change the project. Raises SnippetError."""
        if "run" in self.options:
            done = subprocess.run(["sh", "-e", "-c", self.text], cwd=project, capture_output=True, text=True)
            if done.returncode:
                raise SnippetError(f"line {self.line}: {done.stdout}{done.stderr}")
            return
        path = project / self.options["file"]
        creates = not self.options.keys() - {"file", "indent"}
        if creates is path.exists():
            raise SnippetError(f"line {self.line}: {self.options['file']} {'is there already' if creates else 'is not there'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._changed("" if creates else path.read_text()))

    def _changed(self, before: str) -> str:
        text = textwrap.indent(self.text, " " * int(self.options.get("indent", "0")))
        lines = before.splitlines(keepends=True)
        if "append" in self.options:
            return before + text
        for place in ("after", "before", "replace"):
            if place in self.options:
                first = self._only(lines, self.options[place])
                last = first
                if "to" in self.options:
                    ends = [number for number, line in enumerate(lines[first:], first) if self.options["to"] in line]
                    last = ends[0] if ends else self._only(lines, self.options["to"])
                kept = {"after": (first + 1, first + 1), "before": (first, first), "replace": (first, last + 1)}[place]
                return "".join([*lines[: kept[0]], text, *lines[kept[1] :]])
        return text

    def _only(self, lines: list[str], text: str) -> int:
        found = [number for number, line in enumerate(lines) if text in line]
        if len(found) != 1:
            raise SnippetError(f"line {self.line}: {len(found)} lines of {self.options['file']} contain {text!r}, where one must")
        return found[0]


def sections(page: str) -> dict[str, list[Snippet]]:
    """The blocks that do something, by the `## ` heading that they stand below; in their order."""
    found: dict[str, list[Snippet]] = {}
    title = ""
    lines = iter(enumerate(page.splitlines(keepends=True), 1))
    for number, line in lines:
        if line.startswith("## "):
            title = line[3:].strip()
        elif fence := re.match(r"(`{3,})\w+(.*)$", line):
            text = "".join(_until(lines, fence[1]))
            options = {name: value for name, _, value in (word.partition("=") for word in shlex.split(fence[2]))}
            if options.keys() & {"file", "run"}:
                found.setdefault(title, []).append(Snippet(options, text, number))
    return found


def _until(lines: Iterator[tuple[int, str]], fence: str) -> Iterator[str]:
    for _, line in lines:
        if line.rstrip() == fence:
            return
        yield line
