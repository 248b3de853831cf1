"""Types of command line arguments."""

import argparse
import contextlib
from collections.abc import Callable


def number(least: float, most: float) -> Callable[[str], float]:
    """An argument's type: a number between two bounds."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text} is no number from {least:g} to {most:g}")

    return read


def setting(text: str) -> tuple[str, str]:
    """An argument's type: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE; write for example SERVER__DRAIN__WAIT=3s")
    return name, value
