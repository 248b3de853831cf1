"""Sources of settings, in order of precedence: the environment, `.env`, and a folder with one file for each setting, as a mounted
Secret is."""

import contextlib
import difflib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from ..defaults import PREFIX

DIRECTORY = f"{PREFIX}SETTINGS_DIR"
"""The variable that names the folder."""

Written = dict[str, tuple[str, str]]
"""For each name, in capitals: its value and its origin."""


class SettingsError(Exception):
    """Settings that cannot be read; each line of the text is a sentence that names the setting or the file."""


def read() -> Written:
    """Everything whose name has the prefix. Raises SettingsError."""
    found = _dotenv(Path(".env")) | environment()
    directory, _ = found.pop(DIRECTORY, ("", ""))
    return _mounted(directory) | found


def environment() -> Written:
    """What is set in the environment."""
    return _prefixed(os.environ, "the environment")


def nested(written: Written, known: Sequence[str]) -> dict[str, Any]:
    """The values by section; `none` is None. Raises SettingsError for each name that is not `known`."""
    if unknown := [_unknown(name, written[name][1], known) for name in written if name not in known]:
        raise SettingsError("\n".join(unknown))
    sections: dict[str, Any] = {"service": {}}
    for name, (value, _) in written.items():
        *path, last = name.removeprefix(PREFIX).lower().split("__")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[last] = None if value == "none" else value
    return sections


def _unknown(name: str, origin: str, known: Sequence[str]) -> str:
    short = [each.removeprefix(PREFIX) for each in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, 1)
    advice = f"did you mean {PREFIX}{near[0]}?" if near else "--print-settings lists all"
    return f"{name} in {origin} is not a setting; {advice}"


def _prefixed(values: Mapping[str, str], origin: str) -> Written:
    return {name.upper(): (value, origin) for name, value in values.items() if name.upper().startswith(PREFIX)}


def _dotenv(path: Path) -> Written:
    """Without expansion of `$`, which a password may contain."""
    values: dict[str, str] = {}
    for line in parse_stream(io.StringIO(_text(path) if os.path.lexists(path) else "")):
        if line.error and PREFIX in line.original.string.upper():
            raise SettingsError(f"the file {path} cannot be read: line {line.original.line} is not NAME=value")
        values[line.key or ""] = line.value or ""
    return _prefixed(values, str(path))


def _mounted(directory: str) -> Written:
    if not directory:
        return {}
    with _readable(f"{DIRECTORY}={directory}"):
        paths = [path for path in sorted(Path(directory).iterdir()) if path.name.upper().startswith(PREFIX)]
    return {path.name.upper(): (_text(path).strip(), str(path)) for path in paths}


def _text(path: Path) -> str:
    with _readable(f"the file {path}"):
        text = path.read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError
        return text


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Convert an error in reading a file into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{name} cannot be read: it is not UTF-8 text") from None
