"""The signals that end a process. Imported first, so that SIGTERM ends it while its imports are still in progress.

Process 1 of a container would ignore SIGTERM: the kernel drops signals without a handler there.
"""

import asyncio
import os
import signal
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def end(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with the status that a shell reports for the signal. An exception could be caught by other code."""
    os._exit(128 + number)


def stopping() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process at once. Call it on the main thread's event loop."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()

    def received() -> None:
        event.set()
        for number in _NUMBERS:
            loop.remove_signal_handler(number)
            signal.signal(number, end)

    for number in _NUMBERS:
        loop.add_signal_handler(number, received)
    return event


signal.signal(signal.SIGTERM, end)
