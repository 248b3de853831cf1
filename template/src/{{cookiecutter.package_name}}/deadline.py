"""The call that is being served: what is called while serving it must not take longer than its caller waits.

A context variable, so nothing need be handed through the code in between; tasks begun while serving inherit it. Cancellation
needs none of this: gRPC cancels the task of a call whose caller has gone, and with it every call that the task awaits.
"""

from contextvars import ContextVar
from typing import Any

_serving: ContextVar[Any] = ContextVar("serving", default=None)


def serve(context: Any) -> None:
    """From now on this task serves the call of `context` (grpc.aio.ServicerContext)."""
    _serving.set(context)


def remaining() -> float | None:
    """Seconds that the caller of the call being served still waits; None outside of calls and where it set no deadline."""
    context = _serving.get()
    left: float | None = None if context is None else context.time_remaining()
    return left


def bounded(timeout: float) -> float:
    """`timeout` in seconds, or what remains of the call being served where that is less."""
    left = remaining()
    return timeout if left is None else min(timeout, left)
