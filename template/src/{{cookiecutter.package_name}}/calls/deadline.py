"""The call that is being served: what is called while serving it must not take longer than its caller waits.

A context variable, so nothing need be handed through the code in between; tasks begun while serving inherit it. Cancellation
needs none of this: gRPC cancels the task of a call whose caller has gone, and with it every call that the task awaits.
"""

import time
from contextvars import ContextVar
from typing import Any

_ends: ContextVar[float | None] = ContextVar("ends", default=None)  # by the clock that nobody sets; gRPC's own goes by the other


def serve(context: Any) -> None:
    """From now on this task serves the call of `context` (grpc.aio.ServicerContext)."""
    left: float | None = context.time_remaining()
    _ends.set(None if left is None else time.monotonic() + left)


def remaining() -> float | None:
    """Seconds that the caller of the call being served still waits; None outside of calls and where it set no deadline."""
    end = _ends.get()
    return None if end is None else max(0.0, end - time.monotonic())


def bounded(timeout: float) -> float:
    """`timeout` in seconds, or what remains of the call being served where that is less."""
    left = remaining()
    return timeout if left is None else min(timeout, left)
