"""`python -m lab.fuzz [GRAMMAR ...] --inputs 1000000`: status 0 if every property has held for so many inputs.

The properties are those of the tests, with the values that hypothesis builds for them; here atheris, guided by the code that an
input reaches, chooses the bytes that the values are built from. What breaks a property is shrunk and printed; it belongs into
the test as an `@example`. Seeds are kept as values because the same bytes are another value to hypothesis' next version.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from lab.project import ProjectError, fresh

from .properties import FOLDER, PROJECT, PROPERTIES, load


def main() -> int:
    """Status 1 where a property was broken, 2 where nothing can be fuzzed."""
    parser = argparse.ArgumentParser(prog="python -m lab.fuzz", description="Every grammar that reads what others write.")
    parser.add_argument("grammar", nargs="*", metavar="GRAMMAR", help=f"of {', '.join(PROPERTIES)} (all)")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each property (100,000)")
    arguments = parser.parse_args()
    grammars = arguments.grammar or list(PROPERTIES)
    for unknown in set(grammars) - set(PROPERTIES):
        parser.error(f"no grammar is called {unknown}; there are {', '.join(PROPERTIES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; it is for Linux on x86-64 with Python 3.11 to 3.13")
    if "settings" in grammars:
        try:
            fresh(PROJECT).install()
        except ProjectError as error:
            parser.error(str(error))
    names = [name for grammar in grammars for name in PROPERTIES[grammar]]
    return 0 if _hold(names, arguments.inputs) else 1


def _hold(names: Sequence[str], inputs: int) -> bool:
    """As many at a time as there are processors. Atheris ends the process that it runs in, so each property has its own."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(_try, name, inputs): name for name in names}
        return all([_held(running[done], done.result()) for done in as_completed(running)])


def _try(name: str, inputs: int) -> subprocess.CompletedProcess[str]:
    corpus = FOLDER / "reached" / name.rpartition(":")[2]
    command = [sys.executable, "-m", "lab.fuzz.engine", name, str(inputs), str(corpus)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True)


def _held(name: str, done: subprocess.CompletedProcess[str]) -> bool:
    """Whether it has; where not, what has broken it is printed, from here: hypothesis runs on one thread."""
    if done.returncode == 0:
        return True
    print(f"BROKEN  {name}", flush=True)
    try:
        load(name)()
    except BaseException:
        traceback.print_exc(file=sys.stdout)  # the input was kept, so hypothesis has shrunk it, and shows it in a note
    else:
        print(done.stderr, flush=True)  # the engine itself has failed, or the property holds the second time
    return False


if __name__ == "__main__":
    sys.exit(main())
