"""The bake of the lab, under the name by which tests know it."""

import sys
from pathlib import Path

from lab.bake import ROOT, SLUG, bake, clean_copy, cookiecutter, run_cookiecutter

__all__ = ["ROOT", "SLUG", "bake", "clean_copy", "cookiecutter", "run_cookiecutter"]

if __name__ == "__main__":
    bake(Path(sys.argv[1]))
