"""After generation: restore the owner's files, and print the next steps."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ASIDE = ".discovery-replaced"
"""Where pre_gen_project.py has copied src/<package>/discovery to; it has the same constant."""


def bring_back(root: Path, package: str) -> list[Path]:
    """Put back the files below src/<package>/discovery that the new copy of the library does not have; their paths."""
    aside, library = root / ASIDE, root / "src" / package / "discovery"
    kept = []
    for path in sorted(aside.rglob("*")):
        place = library / path.relative_to(aside)
        if not path.is_dir() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
            kept.append(place.relative_to(root))
    shutil.rmtree(aside, ignore_errors=True)
    return kept


def next_steps(answers: Mapping[str, str]) -> str:
    """What to do now."""
    return f"""
{answers["project_name"]} is in {answers["project_slug"]}/. Next:

  cd {answers["project_slug"]}
  make run     three servers and a client in this terminal
  make test    the tests
  make deploy  both on the cluster of your kubeconfig (docs/operating.md)
  make         everything else

docs/your-own-service.md shows how to replace the example by your service.
"""


def main(answers: Mapping[str, str]) -> None:
    """Called in the new project's folder."""
    kept = bring_back(Path.cwd(), answers["package_name"])
    for path in kept:
        print(
            f"cookiecutter: kept {path.as_posix()}, which the library does not have; delete it if it is not yours",
            file=sys.stderr,
        )
    # cruft has no output folder, and generates for `diff` and `update` too, where nothing begins.
    if "_output_dir" in answers:
        print(next_steps(answers))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
