"""Imported first: SIGTERM ends a process that has not begun yet.

As the first process of a container it would not: the kernel drops signals to it that nobody handles, and while the imports
take half a second, or many under a CPU limit, nobody does. The pod would be there until its grace period ends.
"""

import os
import signal
from types import FrameType

STATUS = 128 + signal.SIGTERM
"""What a shell says of a process that SIGTERM has ended."""


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(STATUS)  # there is nothing yet that would want to be closed, and an exception could be caught by an import


signal.signal(signal.SIGTERM, _end)
