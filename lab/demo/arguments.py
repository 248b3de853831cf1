"""What commands here take on their command lines."""

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
