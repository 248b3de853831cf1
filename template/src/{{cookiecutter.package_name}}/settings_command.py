"""Settings for people: loaded with one sentence for a mistake, printed as they are in force, listed as a table."""

import json
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from .durations import text
from .settings import Settings


def load() -> Settings:
    """The settings in force. Ends the program with status 2, and a sentence for each mistake, where they cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        for sentence in sentences(error):
            print(f"settings: {sentence}", file=sys.stderr)
    except Exception as error:  # pydantic-settings wraps what it cannot even parse, such as a list that is no JSON
        print(f"settings: {error}; {error.__cause__ or 'see the documentation of settings'}", file=sys.stderr)
    raise SystemExit(2)


def sentences(error: ValidationError) -> Iterator[str]:
    """What is wrong, a sentence each, with the name that the user wrote."""
    for mistake in error.errors():
        names = [
            str(part).upper()
            for part in mistake["loc"]
            if isinstance(part, str) and not part.startswith(("function-", "constrained-"))
        ]
        if not names:
            yield from str(mistake["ctx"]["error"]).splitlines()
        elif mistake["type"] == "extra_forbidden":
            yield f"{'__'.join(names)} is no setting; --print-settings lists all of them"
        else:
            written = "__".join(names)
            wrong = "***" if any(name.startswith(written) for name in _secrets()) else repr(mistake["input"])
            yield f"{written}={wrong} cannot be: {mistake['msg'].removeprefix('Value error, ')}"


def _secrets() -> Iterator[str]:
    """The settings that are never shown, nor is what holds them."""
    return (name for name, field, _ in leaves(Settings) if "SecretStr" in repr(field.annotation))


def leaves(section: BaseModel | type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo, Any]]:
    """(environment name, field, value) of every setting below a section; of a class, the defaults."""
    model = section if isinstance(section, type) else type(section)
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=False) if isinstance(section, type) else getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value if not isinstance(section, type) else type(value), (*path, name))
        else:
            yield "__".join((*path, name)).upper(), field, value


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
        default = "the host's name" if name == "SERVER__NAME" else f"`{show(field, value)}`" if value != "" else "empty"
        lines.append(f"| `{name}` | {default} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
