"""The metadata `x-served-by` names the server that answers a call.

It is initial metadata in health checks, reflection, and streams, and trailing metadata in unary calls of the services: gRPC
does not retry a call whose initial metadata has arrived (gRFC A6), and grpc.aio sends that in a packet of its own, before the
answer. With it, 3 of 36,873 calls failed in 25 SIGKILLs of a server, and a call cost 50 µs more CPU; without it, none.
"""

from contextvars import ContextVar
from typing import Any

from .method_handlers import Layer

KEY = "x-served-by"

last: ContextVar[str] = ContextVar("last_served_by", default="")
"""In a client: the server that answered this task's last call, empty for none."""


def of(metadata: Any) -> str:
    """The server's name in a call's metadata; empty where it is not there."""
    return next((value for key, value in metadata or () if key == KEY), "")


class ServedBy(Layer):
    """Adds the server's name to every call's metadata; an empty name adds nothing. initial: to unary calls' initial metadata."""

    def __init__(self, name: str, *, initial: bool = False) -> None:
        self._initial = initial
        # Metadata is ASCII (gRPC over HTTP/2); a host's name is, a setting may be anything.
        self._entry = (KEY, name.encode("ascii", "replace").decode())

    def on(self, server: Any) -> Any:
        return super().on(server) if self._entry[1] else server

    async def enter(self, method: str, context: Any) -> Any:
        context.set_trailing_metadata((self._entry,))
        return _Context(context, self._entry)

    async def answer(self, context: Any) -> None:
        await context.send()

    async def leave(self, context: Any) -> None:
        if self._initial:
            await context.send()

    def enter_thread(self, method: str, context: Any) -> None:
        context.set_trailing_metadata((self._entry,))


class _Context:
    """A call's context whose metadata, whoever sets it, has the name as well. gRPC sends initial metadata once."""

    __slots__ = ("_context", "_entry", "_sent")

    def __init__(self, context: Any, entry: tuple[str, str]) -> None:
        self._context = context
        self._entry = entry
        self._sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def send(self, metadata: Any = ()) -> None:
        """The initial metadata, before a stream's first answer."""
        if not self._sent:
            self._sent = True
            await self._context.send_initial_metadata((self._entry, *metadata))

    async def send_initial_metadata(self, metadata: Any) -> None:
        if self._sent:
            await self._context.send_initial_metadata(metadata)  # gRPC's own error for a second time
        await self.send(metadata)

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._context.set_trailing_metadata((self._entry, *metadata))

    async def write(self, message: Any) -> None:
        await self.send()
        await self._context.write(message)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self._sent = True  # without initial metadata, the call can be retried
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        await self._context.abort(code, details)
