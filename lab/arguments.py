"""The command line: types of arguments, and how a command ends."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


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


def finish(program: str, run: Callable[[], int], *errors: type[Exception]) -> NoReturn:
    """Exit with the status that `run` returns; with 2 and a line for one of these errors, and with 130 where a signal ends it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise SystemExit(run())
    except errors as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
