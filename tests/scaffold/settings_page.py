"""docs/settings.md, written by the generated project itself: `python -m tests.settings_page`."""

import subprocess
import tempfile
from pathlib import Path

from tests.bake import ROOT, bake

PAGE = ROOT / "docs" / "settings.md"

_HEAD = """# Every setting

Both commands read all of them: from the environment, from `.env`, and from files in the directory that `SETTINGS_DIR` names, in this
order. Times are written as `30s`, `500ms`, `5m` or a number of seconds; `none` switches off what may be off. `make settings` in a
project prints what is in force. This page is written by the code (`make docs`); the values are those of a project named Greeter Pair.

"""


def page() -> str:
    """The page as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        project = bake(Path(folder))
        environment = ROOT / "build" / "venv"
        subprocess.run(["make", "-s", "-C", project, environment / "installed", f"VENV={environment}"], check=True)
        done = subprocess.run(
            [environment / "bin" / "python", "-m", "greeter_pair.settings_command"],
            cwd=project,
            env={"PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            check=True,
        )
    return _HEAD + done.stdout


if __name__ == "__main__":
    PAGE.write_text(page())
