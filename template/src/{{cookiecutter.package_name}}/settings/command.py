"""Settings on the command line: loaded with one sentence for each mistake, and printed as a `.env` file."""

import argparse
import asyncio
import json
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from .. import logs
from ..defaults import PREFIX
from ..discovery import DiscoveryError
from ..tls import TlsError
from . import sources, validation
from .settings import Settings, leaves
from .sources import SettingsError
from .types import text


class StartError(Exception):
    """Something that the program needs is not available, such as a port; the text says what, and what to do."""


def load(role: str = "") -> Settings:
    """The settings in effect. Exits with status 2 and a sentence for each mistake if they are invalid. `role` is server or client."""
    try:
        settings = Settings()
        problems = list(validation.wrong_options(settings, role))
    except ValidationError as error:
        problems = list(sentences(error))
    except SettingsError as error:
        problems = str(error).splitlines()
    return settings if not problems else refuse("settings", 2, *problems)


def run(role: str, description: str, start: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """The command line of server and load generator. Exit status 0 after a signal, 1 if it cannot start, 2 for settings that cannot
    be used."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__.split('.')[0]}.{role}", description=description)
    parser.add_argument("--print-settings", action="store_true", help="print the settings in effect, and exit")
    arguments = parser.parse_args()
    settings = load(role)
    if arguments.print_settings:
        return print_settings(settings)
    logs.configure(settings.log.level, settings.log.format)
    for warning in validation.warnings(settings):
        logging.getLogger("settings").warning("%s", qualified(warning))
    try:
        asyncio.run(start(settings))
    except (DiscoveryError, SettingsError, TlsError) as error:
        refuse("settings", 2, str(error))
    except StartError as error:
        refuse(role, 1, str(error))


def refuse(origin: str, status: int, *problems: str) -> NoReturn:
    """Exit with these sentences on standard error, in the format of the logs as far as that can be read."""
    try:
        written = sources.read()
    except SettingsError:
        written = sources.environment()
    value, _ = written.get(f"{PREFIX}LOG__FORMAT", ("console", ""))
    logs.print_errors(origin, map(qualified, problems), "json" if value == "json" else "console")
    raise SystemExit(status)


_NAMES = re.compile(rf"(?<!\w)(?={'|'.join(name.removeprefix(PREFIX) for name, _, _ in leaves(Settings))})")


def qualified(sentence: str) -> str:
    """The sentence with the prefix added to each name of a setting."""
    return _NAMES.sub(PREFIX, sentence)


def sentences(error: ValidationError) -> Iterator[str]:
    """A sentence for each mistake, with the name of the setting without the prefix, and the file that it is in."""
    written = sources.read()
    known = {name: field for name, field, _ in leaves(Settings)}
    mistakes: dict[str, Any] = {}
    for mistake in error.errors():
        path = (PREFIX + "__".join(str(part) for part in mistake["loc"])).upper() + "__"
        # One for each setting: a value that may be of several types has one for each of them.
        mistakes.setdefault(next((name for name in known if path.startswith(f"{name}__")), ""), mistake)
    for name, mistake in mistakes.items():
        reason = mistake["msg"].removeprefix("Value error, ")
        if not name:
            yield from reason.splitlines()
            continue
        value, origin = written.get(name, ("", "the environment"))
        place = "" if origin == "the environment" else f" in {origin}"
        yield f"{name.removeprefix(PREFIX)}={'***' if is_secret(known[name]) else repr(value)}{place} is invalid: {reason}"


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's value must not be shown."""
    return "SecretStr" in repr(field.annotation)


def show(field: FieldInfo, value: Any) -> str:
    """A value as it is written in the environment; a secret as asterisks."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool | dict | tuple):
        return json.dumps(value)
    return text(value) if isinstance(value, float) and "seconds" in f"{field.annotation}{field.metadata}" else str(value)


def print_settings(settings: Settings) -> None:
    """Print a NAME=value line for each setting, as in a `.env` file."""
    for name, field, value in leaves(settings):
        print(f"{name}={_quoted(show(field, value))}")


def _quoted(value: str) -> str:
    """As python-dotenv reads it; in single quotes, where they suffice, also as a shell does."""
    if re.fullmatch(r"[\w@%+=:,./*-]*", value, re.ASCII):
        return value
    if "\\" not in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(character, escaped)
    return f'"{value}"'
