"""Settings for people: loaded with one sentence for a mistake, printed as they are in force, listed as a table."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from ..defaults import PREFIX
from .durations import text
from .sources import Settings, SettingsError, leaves


def load() -> Settings:
    """The settings in force. Exits with status 2, and a sentence for each mistake, where they cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [qualified(sentence) for sentence in sentences(error)]
    except SettingsError as error:
        problems = str(error).splitlines()
    except ValueError as error:  # pydantic-settings wraps what it cannot even parse, such as a list that is not JSON
        problems = [f"{error}; {error.__cause__ or 'docs/configuration.md lists all settings'}"]
    for problem in problems:
        print(f"settings: {problem}", file=sys.stderr)
    raise SystemExit(2)


_NAMES = re.compile(rf"(?<!\w)(?={'|'.join(f'{name.upper()}__' for name in Settings.model_fields)})")


def qualified(text: str) -> str:
    """A text whose settings' names get the prefix that they have in the environment."""
    return _NAMES.sub(PREFIX, text)


def sentences(error: ValidationError) -> Iterator[str]:
    """What is wrong, a sentence each, with the name that the user wrote, less the prefix."""
    for mistake in error.errors():
        names = [
            str(part).upper()
            for part in mistake["loc"]
            if isinstance(part, str) and not part.startswith(("function-", "constrained-"))
        ]
        if not names:
            yield from str(mistake["ctx"]["error"]).splitlines()
        else:
            written = "__".join(names)
            secret = any(name.removeprefix(PREFIX).startswith(written) for name in _secrets())
            yield f"{written}={'***' if secret else repr(mistake['input'])} cannot be: {mistake['msg'].removeprefix('Value error, ')}"


def _secrets() -> Iterator[str]:
    """The settings that are never shown, nor is what holds them."""
    return (name for name, field, _ in leaves(Settings) if "SecretStr" in repr(field.annotation))


def show(field: FieldInfo, value: Any) -> str:
    """A value as the environment would hold it; a secret as stars."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return text(value) if is_duration(field) else str(value)


def is_duration(field: FieldInfo) -> bool:
    """Whether a setting is a time."""
    pieces = [*field.metadata, *(item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ()))]
    return any("seconds" in repr(piece) for piece in pieces)


def print_settings(settings: Settings) -> None:
    """NAME=value, a line each, as a `.env` file would have it."""
    for name, field, value in leaves(settings):
        print(f"{name}={show(field, value)}")


def markdown() -> str:
    """A table of every setting, for the documentation."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field, value in leaves(Settings):
        default = "the host's name" if name == f"{PREFIX}SERVER__NAME" else f"`{show(field, value)}`" if value != "" else "empty"
        lines.append(f"| `{name}` | {default} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
