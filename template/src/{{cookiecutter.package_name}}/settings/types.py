"""The types of settings: what is written in the environment in, a checked value out. The text of a ValueError follows "is invalid:"."""

import json
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from .. import discovery

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(value: object) -> object:
    """The seconds that a text such as `30s`, `500ms`, `5m`, `2h`, or `1.5` means; other types are left to pydantic."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", value.strip())
    if match is None:
        raise ValueError("write a duration such as 30s, 500ms, 5m, or a number of seconds")
    return float(match[1]) * _UNITS[match[2]]


def text(value: float) -> str:
    """A text from which `seconds` reads exactly this number."""
    return f"{Decimal(repr(value)).normalize():f}s"


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError('write JSON: a list as in ["a", "b"], or a map as in {"a": 1}') from None


def _client(name: str) -> str:
    if not re.fullmatch(r"[^*\s]+|[^*\s]+://[^*\s]*/\*", name):
        raise ValueError(f"'{name}' is no DNS name or URI; a star may stand only at the end of a URI, after a slash")
    return name


Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[Duration, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Bytes = Annotated[int, Field(ge=1, le=2**31 - 1)]
Host = Annotated[str, AfterValidator(lambda host: f"[{host}]" if ":" in host and "[" not in host else host)]
Target = Annotated[str, AfterValidator(lambda value: str(discovery.parse_target(value)))]
Empty = Annotated[str, AfterValidator(lambda value: value if value and discovery.Empty.parse(value) else "")]
Names = Annotated[tuple[str, ...], BeforeValidator(_json)]
Clients = tuple[Annotated[str, AfterValidator(_client)], ...]
Rules = Annotated[Clients | dict[str, Clients], BeforeValidator(_json), Field(min_length=1)]
Options = Annotated[dict[str, Annotated[int, Field(ge=-(2**31), lt=2**31)] | str], BeforeValidator(_json)]
