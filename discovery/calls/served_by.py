"""The metadata `x-served-by`, which names the server that answers a call: in the trailing metadata, and in the initial metadata of
response streams. In a unary call, initial metadata is a packet of its own, and costs 50 µs of CPU."""

from contextvars import ContextVar
from typing import Any

KEY = "x-served-by"

last: ContextVar[str] = ContextVar("last_served_by", default="")
"""In a client: the server that answered this task's last call, empty for none."""


def of(metadata: Any) -> str:
    """The server's name in a call's metadata; empty where it is not there."""
    for key, value in metadata or ():
        if key == KEY:
            return str(value)
    return ""
