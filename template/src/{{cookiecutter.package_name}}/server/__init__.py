"""The server: `servicer` is your service, `app` builds the server around it, `drain` stops it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the server. Health and reflection cover it too.

    name: full name, such as package.v1.SomeService.   register: the generated add_..._to_server.   servicer: what it adds.
    """

    name: str
    register: Callable[[Any, Any], object]
    servicer: object
