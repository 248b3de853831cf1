"""The metadata `x-served-by`: every call's initial metadata names the server that answers it."""

from contextvars import ContextVar
from typing import Any

from .method_handlers import Layer

KEY = "x-served-by"

last: ContextVar[str] = ContextVar("last_served_by", default="")
"""In a client: the server that answered this task's last call, empty for none."""


def of(metadata: Any) -> str:
    """The server's name in a call's initial metadata; empty where it is not there."""
    return next((value for key, value in metadata or () if key == KEY), "")


class ServedBy(Layer):
    """Adds the server's name to every call's initial metadata, which costs some 50 µs of CPU a call; an empty name adds nothing."""

    def __init__(self, name: str) -> None:
        # Metadata is ASCII (gRPC over HTTP/2); a host's name is, a setting may be anything.
        self._entry = (KEY, name.encode("ascii", "replace").decode())

    def on(self, server: Any) -> Any:
        return super().on(server) if self._entry[1] else server

    async def enter(self, method: str, context: Any) -> Any:
        return _Context(context, self._entry)

    async def answer(self, context: Any) -> None:
        await context.send()

    leave = answer

    def enter_thread(self, method: str, context: Any) -> None:
        context.send_initial_metadata((self._entry,))


class _Context:
    """A call's context that adds the name to the initial metadata, which gRPC sends once."""

    __slots__ = ("_context", "_entry", "_sent")

    def __init__(self, context: Any, entry: tuple[str, str]) -> None:
        self._context = context
        self._entry = entry
        self._sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def send(self, metadata: Any = ()) -> None:
        if not self._sent:
            self._sent = True
            await self._context.send_initial_metadata((self._entry, *metadata))

    async def send_initial_metadata(self, metadata: Any) -> None:
        if self._sent:
            await self._context.send_initial_metadata(metadata)  # gRPC's own error for a second time
        await self.send(metadata)

    async def write(self, message: Any) -> None:
        await self.send()
        await self._context.write(message)

    async def abort(self, *arguments: Any, **more: Any) -> None:
        await self.send()
        await self._context.abort(*arguments, **more)
