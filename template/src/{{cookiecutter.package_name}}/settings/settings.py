"""All settings as one value, whose names are those of the environment."""

from collections.abc import Iterator

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ..defaults import PREFIX
from . import sources, validation
from .own import Service
from .sections import Client, Discovery, Log, Registration, Server, Tls
from .types import Options


class Settings(BaseSettings):
    """All settings. Raises pydantic.ValidationError, or SettingsError for what cannot be read."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    server: Server = Server()
    client: Client = Client()
    discovery: Discovery = Discovery()
    registration: Registration = Registration()
    tls: Tls = Tls()
    log: Log = Log()
    service: Service = Field(default_factory=Service)
    grpc_options: Options = {}
    """gRPC's channel arguments for this process's server or channel, as JSON: {"grpc.max_connection_idle_ms": 900000}. They override what the program sets."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: object, **unused: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, for tests; then the sources of this package."""
        written = sources.nested(sources.read(), [name for name, _, _ in leaves(cls)])
        return init_settings, InitSettingsSource(settings_cls, written)

    @model_validator(mode="after")
    def _valid_together(self) -> "Settings":
        if found := list(validation.contradictions(self)):
            raise ValueError("\n".join(found))
        return self


def leaves(section: BaseModel | type[BaseModel], path: str = PREFIX) -> Iterator[tuple[str, FieldInfo, object]]:
    """(environment name, field, value) of every setting below a section; of a class, the defaults."""
    model = section if isinstance(section, type) else type(section)
    for name, field in model.model_fields.items():
        value = field.get_default() if isinstance(section, type) else getattr(section, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation if isinstance(section, type) else value, f"{path}{name.upper()}__")
        else:
            yield path + name.upper(), field, value
