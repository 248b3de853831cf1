"""The server: `servicer` is your service, `app` builds the server around it, `drain` stops it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


async def _nothing() -> None:
    """The health service is not there yet."""


@dataclass
class Service:
    """One service of the server. Health and reflection cover it too.

    name: full name, such as package.v1.SomeService.   register: the generated add_..._to_server.   servicer: what it adds.
    serving: its status in the health service; change it by `set_serving`.
    """

    name: str
    register: Callable[[Any, Any], object]
    servicer: object
    serving: bool = True
    update: Callable[[], Awaitable[None]] = field(default=_nothing, repr=False)

    async def set_serving(self, serving: bool) -> None:
        """Report SERVING or NOT_SERVING, as when a database is away: clients and Kubernetes then send no calls. Liveness stays SERVING."""
        self.serving = serving
        await self.update()
