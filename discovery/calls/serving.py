"""What a handler asks of the call that it serves: its deadline, and whether the server drains. Tasks that the handler starts inherit it."""

import asyncio
from contextvars import ContextVar
from typing import Any

current: ContextVar[Any] = ContextVar("current_call", default=None)
"""The call that this task serves, a context.CallContext."""


def remaining() -> float | None:
    """Seconds until the deadline of the call being served; None outside of calls and without a deadline."""
    call = current.get()
    return None if call is None else call.time_remaining()


def bounded(timeout: float) -> float:
    """`timeout` in seconds, or what remains of the call being served where that is less: a call made for another one ends with it.

    Cancellation needs nothing: gRPC cancels the task of a call whose caller has gone, and with it every call that the task awaits.
    """
    left = remaining()
    return timeout if left is None else min(timeout, left)


async def draining(timeout: float | None = None) -> bool:
    """Wait until the server of this call drains, for at most `timeout` seconds; whether it drains. Outside of calls it never does.

    For streams that have no end of their own: end with a status on which the caller calls again.
    """
    call = current.get()
    try:
        await asyncio.wait_for((asyncio.Event() if call is None else call.method.drain).wait(), timeout)
    except TimeoutError:
        return False
    return True
