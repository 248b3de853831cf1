"""Sources of settings, in order of precedence: the environment, `.env`, and a folder with one file for each setting, as a mounted
Secret is."""

import difflib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ..defaults import PREFIX
from .own import Service
from .sections import Client, Discovery, Log, Registration, Server, Tls
from .types import Options

DIRECTORY = f"{PREFIX}SETTINGS_DIR"
"""The variable that names the folder."""
ENVIRONMENT = "the environment"

Written = dict[str, tuple[str, str]]
"""For each name, in capitals: its value and its origin."""


class SettingsError(Exception):
    """Settings that cannot be read; each line of the text is a sentence that names the setting or the file."""


class Settings(BaseSettings):
    """All settings, each valid by itself; `validation` checks them together. Raises pydantic.ValidationError or SettingsError."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    server: Server = Server()
    client: Client = Client()
    discovery: Discovery = Discovery()
    registration: Registration = Registration()
    tls: Tls = Tls()
    log: Log = Log()
    service: Service = Field(default_factory=Service)
    grpc_options: Options = {}
    """gRPC's arguments for this process's server or channel, as JSON: {"grpc.max_connection_idle_ms": 900000}. They take precedence over other settings."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: object, **unused: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, for tests; then what `read` finds."""
        return init_settings, InitSettingsSource(settings_cls, _nested(read()))


def read() -> Written:
    """Everything whose name has the prefix. Raises SettingsError."""
    found = _dotenv() | _prefixed(os.environ, ENVIRONMENT)
    directory, _ = found.pop(DIRECTORY, ("", ""))
    try:
        paths = sorted(Path(directory).iterdir()) if directory else []
    except (OSError, ValueError) as error:
        raise SettingsError(f"{DIRECTORY}={directory} cannot be read: {getattr(error, 'strerror', error)}") from None
    mounted = {path.name.upper(): path for path in paths if path.name.upper().startswith(PREFIX)}
    return {name: (_text(path).strip(), str(path)) for name, path in mounted.items()} | found


def _nested(written: Written) -> dict[str, Any]:
    """The values by section; `none` is None. Raises SettingsError for each name that is no setting."""
    known = [name.removeprefix(PREFIX) for name, _, _ in leaves(Settings)]
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


def _dotenv() -> Written:
    values: dict[str, str] = {}
    # Not dotenv_values, which expands `$` and skips lines that it cannot read.
    for line in parse_stream(io.StringIO(_text(Path(".env")) if os.path.lexists(".env") else "")):
        if line.error and PREFIX in line.original.string.upper():
            raise SettingsError(f"the file .env cannot be read: line {line.original.line} is not NAME=value")
        values[line.key or ""] = line.value or ""
    return _prefixed(values, ".env")


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        if "\0" not in text:
            return text
        reason = "it is not text"
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "it is not UTF-8 text")
    raise SettingsError(f"the file {path} cannot be read: {reason}")
