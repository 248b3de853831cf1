"""The drain, for handlers of streams that have no end of their own: end with a status on which the caller calls again."""

import asyncio

from .context import current


async def wait(timeout: float | None = None) -> bool:
    """Wait until the server of this call drains, for at most `timeout` seconds; whether it drains. Outside of calls it never does."""
    call = current.get()
    try:
        await asyncio.wait_for((asyncio.Event() if call is None else call.method.drain).wait(), timeout)
    except TimeoutError:
        return False
    return True
