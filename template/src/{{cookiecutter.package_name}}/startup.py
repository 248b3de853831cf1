"""Imported first, so that SIGTERM stops a process whose imports are still in progress.

Process 1 of a container would ignore it: the kernel drops signals without a handler there, and the pod would stay until its grace
period ends.
"""

import os
import signal
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)  # as a shell reports it; there is nothing to close yet, and an exception could be caught by an import


signal.signal(signal.SIGTERM, _end)
