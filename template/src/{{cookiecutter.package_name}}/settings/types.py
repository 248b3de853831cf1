"""The types of settings: what is written in the environment in, a checked value out. A ValueError's text follows "is invalid:"."""

import ipaddress
import json
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from .. import discovery

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")


def seconds(value: object) -> object:
    """The seconds that a text such as `30s`, `500ms`, `5m`, `2h`, or `1.5` means; other types are left to pydantic."""
    if not isinstance(value, str):
        return value
    match = _FORM.fullmatch(value.strip())
    if match is None:
        raise ValueError("write a duration such as 30s, 500ms, 5m, or a number of seconds")
    return float(match[1]) * _UNITS[match[2] or "s"]


def text(value: float) -> str:
    """The shortest form of a number of seconds from which `seconds` reads exactly this number."""
    for unit, size in _UNITS.items():
        if value and (unit != "ms" or value < 1) and value < 1e15 and round(value / size) * size == value:
            return f"{round(value / size)}{unit}"
    return f"{Decimal(repr(value)):f}s"


def from_json(value: object) -> object:
    """What a text in JSON means; other types are left to pydantic."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError('write JSON, as in ["one", "two"]') from None


def _host(value: str) -> str:
    """With the brackets that an IPv6 address needs in front of a port."""
    if re.fullmatch(r"[A-Za-z0-9._-]+", value):
        return value
    try:
        return f"[{ipaddress.IPv6Address(value.removeprefix('[').removesuffix(']'))}]"
    except ValueError:
        raise ValueError("write an IP address or a host name, without a port") from None


def _target(value: str) -> str:
    discovery.parse_target(value)
    return value


def _empty(value: str) -> str:
    if value:
        discovery.Empty.parse(value)
    return value


Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
"""Seconds."""
Positive = Annotated[Duration, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Bytes = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""gRPC stores its arguments in 32 bits."""
Host = Annotated[str, AfterValidator(_host)]
Target = Annotated[str, AfterValidator(_target)]
Empty = Annotated[str, AfterValidator(_empty)]
Names = Annotated[tuple[str, ...], BeforeValidator(from_json)]
Rules = Annotated[tuple[str, ...] | dict[str, tuple[str, ...]], BeforeValidator(from_json)]
Options = Annotated[dict[str, Annotated[int, Field(ge=-(2**31), lt=2**31)] | str], BeforeValidator(from_json)]
"""gRPC's channel arguments."""
