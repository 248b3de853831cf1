"""One property, one process: `python -m lab.fuzz.engine PROPERTY INPUTS CORPUS`. Status 0 if it has held."""

import logging
import os
import sys
import time

import atheris

from .properties import FOLDER, PACKAGES, load

LONGEST = 2048
"""Bytes of one input, from which hypothesis builds the values."""

STEP = 100_000
"""Inputs from one line of progress to the next."""


def main() -> None:
    """Never returns: atheris has no other end than that of the process."""
    name, inputs, corpus = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with atheris.instrument_imports(include=PACKAGES):
        one = load(name).hypothesis.fuzz_one_input
    os.makedirs(corpus, exist_ok=True)
    logging.disable()  # or a million warnings would be written
    tried = whole = 0
    began = time.monotonic()

    def try_input(data: bytes) -> None:
        nonlocal tried, whole
        tried += 1
        # None: the bytes ended before the values were built, or a filter refused them, and the property was not tried.
        if one(data) is None:
            return
        whole += 1
        if whole == inputs or whole % STEP == 0:
            word = "held   " if whole == inputs else "holding"
            print(f"{word} {name}: {whole:,} inputs in {time.monotonic() - began:.0f} s ({tried:,} tried)", flush=True)
        if whole == inputs:
            os._exit(0)

    atheris.Setup([sys.argv[0], corpus, f"-max_len={LONGEST}", f"-artifact_prefix={FOLDER}/", "-verbosity=0"], try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
