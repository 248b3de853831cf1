"""The metadata `x-served-by`, which names the server that answers a call: in the trailing metadata, and in the initial metadata of
response streams. In a unary call, initial metadata is a packet of its own, and costs 50 µs of CPU."""

from contextvars import ContextVar
from typing import Any

KEY = "x-served-by"

names: ContextVar[list[str] | None] = ContextVar("served_by", default=None)
"""In a client: set it to a list, to which every unary call that is answered adds its server's name. Reading it costs a hundredth of a
call, so that nobody else pays for it."""


def of(metadata: Any) -> str:
    """The server's name in a call's metadata; empty where it is not there."""
    for key, value in metadata or ():
        if key == KEY:
            return str(value)
    return ""
