"""Durations such as `30s`, `500ms`, `5m`, `2h`, or a number of seconds."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")


def seconds(value: object) -> object:
    """The seconds that a text means; other types are left to pydantic. Raises ValueError with an example."""
    if not isinstance(value, str):
        return value
    match = _FORM.fullmatch(value.strip())
    if match is None:
        raise ValueError("write a duration such as 30s, 500ms, 5m, or a number of seconds")
    return float(match[1]) * _UNITS[match[2]]


def text(value: float) -> str:
    """The shortest form of a number of seconds that `seconds` reads."""
    for unit, size in (("h", 3600), ("m", 60)):
        if value and value % size == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}s" if value >= 1 or not value else f"{value * 1000:g}ms"


Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False), PlainSerializer(text, return_type=str)]
"""Seconds, read from any of the forms above, and printed in the shortest one."""
