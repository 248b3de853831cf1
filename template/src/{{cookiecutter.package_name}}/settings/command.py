"""Settings on the command line: loaded with one sentence for each mistake, and printed."""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from ..defaults import PREFIX
from ..discovery import DiscoveryError
from ..tls import TlsError
from .durations import text
from .sources import Settings, SettingsError, leaves


class StartError(Exception):
    """Something that the program needs is not available, such as a port; the text says what, and what to do."""


def load() -> Settings:
    """The settings in effect. Exits with status 2 and a sentence for each mistake if they are invalid."""
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


def run(name: str, description: str, start: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """The command line of server and load generator. Exit status 0 after a signal, 1 if it cannot start, 2 for settings that cannot
    be used."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__.split('.')[0]}.{name}", description=description)
    parser.add_argument("--print-settings", action="store_true", help="print the settings in force, and exit")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    try:
        asyncio.run(start(settings))
    except (DiscoveryError, TlsError) as error:
        print(f"settings: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except StartError as error:
        print(f"{name}: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None


_NAMES = re.compile(rf"(?<!\w)(?={'|'.join(f'{name.upper()}__' for name in Settings.model_fields)})")


def qualified(text: str) -> str:
    """The text with the prefix added to each name of a setting."""
    return _NAMES.sub(PREFIX, text)


def sentences(error: ValidationError) -> Iterator[str]:
    """A sentence for each mistake, with the name of the setting without the prefix."""
    secrets = [name.removeprefix(PREFIX) for name, field, _ in leaves(Settings) if "SecretStr" in repr(field.annotation)]
    for mistake in error.errors():
        # Validators of pydantic's stand among the names as function-... and constrained-...
        names = [str(part).upper() for part in mistake["loc"] if isinstance(part, str) and "-" not in part]
        if not names:
            yield from str(mistake["ctx"]["error"]).splitlines()
        else:
            written = "__".join(names)
            secret = any(name.startswith(written) for name in secrets)
            yield f"{written}={'***' if secret else repr(mistake['input'])} is invalid: {mistake['msg'].removeprefix('Value error, ')}"


def show(field: FieldInfo, value: Any) -> str:
    """A value as it would be written in the environment; a secret as asterisks."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool | dict | tuple):
        return json.dumps(value)
    return text(value) if is_duration(field) else str(value)


def is_duration(field: FieldInfo) -> bool:
    """Whether a setting is a duration."""
    pieces = [*field.metadata, *(item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ()))]
    return any("seconds" in repr(piece) for piece in pieces)


def print_settings(settings: Settings) -> None:
    """Print a NAME=value line for each setting, as in a `.env` file."""
    print("\n".join(f"{name}={show(field, value)}" for name, field, value in leaves(settings)))
