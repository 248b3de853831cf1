"""Settings on the command line: loaded with one sentence for each mistake, and printed as a `.env` file."""

import argparse
import asyncio
import json
import logging
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from .. import logs
from ..defaults import PREFIX
from ..discovery import DiscoveryError
from ..tls import TlsError
from . import Settings, SettingsError, sources, validation
from .types import text


class StartError(Exception):
    """Something that the program needs is not available, such as a port; the text says what, and what to do."""


def load() -> Settings:
    """The settings in effect. Exits with status 2 and a sentence for each mistake if they are invalid."""
    try:
        settings = Settings()
        problems = list(validation.contradictions(settings))
    except ValidationError as error:
        problems = list(_sentences(error))
    except SettingsError as error:
        problems = str(error).splitlines()
    return _refuse("settings", 2, *problems) if problems else settings


def run(name: str, description: str, start: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """The command line of server and load generator. Exit status 0 after a signal, 1 if it cannot start, 2 for settings that cannot
    be used."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__.split('.')[0]}.{name}", description=description)
    parser.add_argument("--print-settings", action="store_true", help="print the settings in effect, and exit")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    logs.configure(settings.log.level, settings.log.format)
    for warning in validation.warnings(settings):
        logging.getLogger("settings").warning("%s", _qualified(warning))
    try:
        asyncio.run(start(settings))
    except (DiscoveryError, SettingsError, TlsError) as error:
        _refuse("settings", 2, str(error))
    except StartError as error:
        _refuse(name, 1, str(error))


def print_settings(settings: Settings) -> None:
    """Print a NAME=value line for each setting, as in a `.env` file, where secrets are comments."""
    for name, field, value in sources.leaves(settings):
        shown = show(field, value)
        if not re.fullmatch(r"[\w@%+=:,./*-]*", shown, re.ASCII):
            shown = "'" + re.sub(r"['\\]", r"\\\g<0>", shown) + "'"
        print(f"{'# ' if isinstance(value, SecretStr) and value else ''}{name}={shown}")


def show(field: FieldInfo, value: Any) -> str:
    """A value as it is written in the environment; a secret as asterisks."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "***" if value else ""
    if isinstance(value, bool | dict | tuple):
        return json.dumps(value)
    return text(value) if isinstance(value, float) and "seconds" in f"{field.annotation}{field.metadata}" else str(value)


def _refuse(origin: str, status: int, *problems: str) -> NoReturn:
    """Exit with these sentences on standard error, in the format of the logs as far as it can be read."""
    name = f"{PREFIX}LOG__FORMAT"
    try:
        form, _ = sources.read().get(name, ("", ""))
    except SettingsError:
        form = os.environ.get(name, "")
    logs.print_errors(origin, map(_qualified, problems), form)
    raise SystemExit(status)


_NAMES = re.compile(rf"(?<!\w)(?={'|'.join(name.removeprefix(PREFIX) for name, _, _ in sources.leaves(Settings))})")


_LIBRARY = re.compile(r"\b(Etcd|Kubernetes)\((\w+)=([^)]*)\)")


def _qualified(sentence: str) -> str:
    """The sentence with the settings' full names, also where the library names its own arguments."""
    sentence = _LIBRARY.sub(lambda found: f"DISCOVERY__{found[1]}__{found[2]}".upper() + f"={found[3]}", sentence)
    return _NAMES.sub(PREFIX, sentence)


def _sentences(error: ValidationError) -> Iterator[str]:
    """A sentence for each setting that is invalid, with its name without the prefix, and the file that it is in."""
    written = sources.read()
    known = {name: field for name, field, _ in sources.leaves(Settings)}
    mistakes: dict[str, Any] = {}
    # A value that may have one of several types has a mistake for each of them; the deepest one says the most.
    for mistake in sorted(error.errors(), key=lambda mistake: -len(mistake["loc"])):
        path = (PREFIX + "__".join(map(str, mistake["loc"]))).upper() + "__"
        mistakes.setdefault(next(name for name in known if path.startswith(f"{name}__")), mistake)
    for name, mistake in mistakes.items():
        value, origin = written.get(name, ("", sources.ENVIRONMENT))
        shown = "***" if "SecretStr" in repr(known[name].annotation) else repr(value)
        place = "" if origin == sources.ENVIRONMENT else f" in {origin}"
        yield f"{name.removeprefix(PREFIX)}={shown}{place} is invalid: {mistake['msg'].removeprefix('Value error, ')}"
