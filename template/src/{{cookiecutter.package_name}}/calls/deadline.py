"""Deadline propagation: a call made while another one is served ends no later than the served call's deadline.

The deadline is in a context variable, which tasks started while serving inherit. Cancellation needs nothing: gRPC cancels the
task of a call whose caller has gone, and with it every call that the task awaits.
"""

import time
from contextvars import ContextVar
from typing import Any

_ends: ContextVar[float | None] = ContextVar("ends", default=None)  # on the monotonic clock


def serve(context: Any) -> None:
    """From now on this task serves the call of `context` (grpc.aio.ServicerContext)."""
    left: float | None = context.time_remaining()
    _ends.set(None if left is None else time.monotonic() + left)


def remaining() -> float | None:
    """Seconds until the deadline of the call being served; None outside of calls and without a deadline."""
    end = _ends.get()
    return None if end is None else max(0.0, end - time.monotonic())


def bounded(timeout: float) -> float:
    """`timeout` in seconds, or what remains of the call being served where that is less."""
    left = remaining()
    return timeout if left is None else min(timeout, left)
