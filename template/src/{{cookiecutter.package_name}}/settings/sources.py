"""Sources of settings, in order of precedence: the environment, `.env`, and a folder with one file for each setting, as a mounted
Secret is."""

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import dotenv
from pydantic import BaseModel, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources.utils import parse_env_vars

from ..defaults import PREFIX
from . import validation
from .own import Service
from .sections import Client, Discovery, Log, Registration, Server, Tls

DIRECTORY = f"{PREFIX}SETTINGS_DIR"
"""The variable that names the folder."""


class SettingsError(Exception):
    """Settings that cannot be read; each line of the text is a sentence that names the setting or the file."""


class _Source(EnvSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        found = read(os.environ)
        if problems := [*_unknown(found), *_not_json(found)]:
            raise SettingsError("\n".join(problems))
        return parse_env_vars({name: value for name, (value, _) in found.items()}, parse_none_str=self.env_parse_none_str)


class Settings(BaseSettings):
    """All settings. Raises pydantic.ValidationError, or SettingsError for what cannot be read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        env_parse_none_str="none",
        nested_model_default_partial_update=True,
    )

    server: Server = Server()
    client: Client = Client()
    discovery: Discovery = Discovery()
    registration: Registration = Registration()
    tls: Tls = Tls()
    log: Log = Log()
    service: Service = Service()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: object, **unused: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, for tests; then the sources of this module."""
        return init_settings, _Source(settings_cls)

    @model_validator(mode="after")
    def _valid_together(self) -> "Settings":
        validation.check(self)
        return self


def read(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """For every name with the prefix, in capitals: its value and its origin. Raises SettingsError."""
    found = _mounted(environment.get(DIRECTORY, ""))
    if os.path.exists(".env"):
        with _readable("the file .env"):
            values = dotenv.dotenv_values(".env", encoding="utf-8")
            found |= _prefixed({name: value or "" for name, value in values.items()}, ".env")
    found |= _prefixed(environment, "the environment")
    found.pop(DIRECTORY, None)
    return found


def _prefixed(values: Mapping[str, str], origin: str) -> dict[str, tuple[str, str]]:
    return {name.upper(): (value, origin) for name, value in values.items() if name.upper().startswith(PREFIX)}


def _mounted(directory: str) -> dict[str, tuple[str, str]]:
    if not directory:
        return {}
    found: dict[str, tuple[str, str]] = {}
    with _readable(f"{DIRECTORY}={directory}"):
        for path in sorted(Path(directory).iterdir()):
            if path.name.upper().startswith(PREFIX):
                with _readable(f"the file {path}"):
                    found[path.name.upper()] = (path.read_text(encoding="utf-8").strip(), str(path))
    return found


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Convert an error in reading a file into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise SettingsError(f"{name} cannot be read: it is not UTF-8 text") from None


def _unknown(found: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    known = [name for name, _, _ in leaves(Settings)]
    for name, (_, origin) in found.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            advice = f"did you mean {near[0]}?" if near else "--print-settings lists all"
            yield f"{name} in {origin} is not a setting; {advice}"


def _not_json(found: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for name, field, _ in leaves(Settings):
        value, origin = found.get(name, ("none", ""))
        if value != "none" and re.search(r"\b(tuple|dict)\[", repr(field.annotation)):
            try:
                json.loads(value)
            except ValueError:
                yield f'{name}={value!r} in {origin} is not JSON; write a list, as in {name}=\'["one", "two"]\''


def leaves(section: BaseModel | type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo, object]]:
    """(environment name, field, value) of every setting below a section; of a class, the defaults."""
    model = section if isinstance(section, type) else type(section)
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=False) if isinstance(section, type) else getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value if not isinstance(section, type) else type(value), (*path, name))
        else:
            yield PREFIX + "__".join((*path, name)).upper(), field, value
