"""Deadline propagation: a call made while another one is served ends no later than the served call's deadline.

Tasks that are started while serving inherit it. Cancellation needs nothing: gRPC cancels the task of a call whose caller has gone, and
with it every call that the task awaits.
"""

from .context import current


def remaining() -> float | None:
    """Seconds until the deadline of the call being served; None outside of calls and without a deadline."""
    call = current.get()
    return None if call is None else call.time_remaining()


def bounded(timeout: float) -> float:
    """`timeout` in seconds, or what remains of the call being served where that is less."""
    left = remaining()
    return timeout if left is None else min(timeout, left)
