"""The folder of results: a record and a picture for each mode, a picture and a page about all.

`python -m lab.experiment.results FOLDER` makes pictures and page anew from the records, without a cluster.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from .assertions import check
from .measure import as_json, measure
from .modes import MODES
from .page import render, title
from .picture import compare, draw
from .record import Record, dump, load

PAGE = "README.md"


def write(folder: Path, record: Record) -> None:
    """One mode's record, with what was made of it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome = as_json(measure(record), check(record))
    (folder / f"{record.mode}.json").write_text(dump(record, outcome), encoding="utf-8")


def kept(folder: Path) -> Iterator[Record]:
    """The records in a folder, in the order of the modes. Raises OSError, ValueError."""
    for name in MODES:
        path = folder / f"{name}.json"
        if path.exists():
            yield load(path)


def rewrite(folder: Path) -> None:
    """Everything that is made from the records. Raises OSError, ValueError where there is none."""
    records = list(kept(folder))
    (folder / PAGE).write_text(render(records), encoding="utf-8")
    for record in records:
        write(folder, record)
        draw(folder / f"{record.mode}.png", record, title(record))
    compare(folder / "comparison.png", records)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
