"""Sources of settings, in order of precedence: the environment, `.env`, and a folder with one file for each setting, as a mounted
Secret is."""

import contextlib
import difflib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..defaults import PREFIX

DIRECTORY = f"{PREFIX}SETTINGS_DIR"
"""The variable that names the folder."""
ENVIRONMENT = "the environment"

Written = dict[str, tuple[str, str]]
"""For each name, in capitals: its value and its origin."""


class SettingsError(Exception):
    """Settings that cannot be read; each line of the text is a sentence that names the setting or the file."""


def read() -> Written:
    """Everything whose name has the prefix. Raises SettingsError."""
    found = _dotenv(Path(".env")) | _prefixed(os.environ, ENVIRONMENT)
    directory, _ = found.pop(DIRECTORY, ("", ""))
    if not directory:
        return found
    with _readable(f"{DIRECTORY}={directory}"):
        paths = [path for path in sorted(Path(directory).iterdir()) if path.name.upper().startswith(PREFIX)]
    return {path.name.upper(): (_text(path).strip(), str(path)) for path in paths} | found


def nested(written: Written, model: type[BaseModel]) -> dict[str, Any]:
    """The values by section; `none` is None. Raises SettingsError for each name that is no setting of the model."""
    known = [name.removeprefix(PREFIX) for name, _, _ in leaves(model)]
    unknown, sections = [], dict[str, Any](service={})
    for name, (value, origin) in written.items():
        short = name.removeprefix(PREFIX)
        if short not in known:
            near = difflib.get_close_matches(short, known, 1)
            advice = f"did you mean {PREFIX}{near[0]}?" if near else "--print-settings lists all"
            unknown.append(f"{name} in {origin} is not a setting; {advice}")
            continue
        *path, last = short.lower().split("__")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[last] = None if value == "none" else value
    if unknown:
        raise SettingsError("\n".join(unknown))
    return sections


def leaves(section: BaseModel | type[BaseModel], path: str = PREFIX) -> Iterator[tuple[str, FieldInfo, object]]:
    """(environment name, field, value) of every setting below a section; of a class, the defaults."""
    for name, field in (section if isinstance(section, type) else type(section)).model_fields.items():
        value = field.get_default() if isinstance(section, type) else getattr(section, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation if isinstance(section, type) else value, f"{path}{name.upper()}__")
        else:
            yield path + name.upper(), field, value


def _prefixed(values: Mapping[str, str], origin: str) -> Written:
    return {name.upper(): (value, origin) for name, value in values.items() if name.upper().startswith(PREFIX)}


def _dotenv(path: Path) -> Written:
    values: dict[str, str] = {}
    # Not dotenv_values, which expands `$` and skips lines that it cannot read.
    for line in parse_stream(io.StringIO(_text(path) if os.path.lexists(path) else "")):
        if line.error and PREFIX in line.original.string.upper():
            raise SettingsError(f"the file {path} cannot be read: line {line.original.line} is not NAME=value")
        values[line.key or ""] = line.value or ""
    return _prefixed(values, str(path))


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
