"""docs/settings.md, written from a generated project's own settings: `python -m tests.scaffold.settings_page`."""

import subprocess
import tempfile
from pathlib import Path

from tests.bake import ENVIRONMENT, ROOT, bake, make

PAGE = ROOT / "docs" / "settings.md"

_HEAD = """# Every setting

Server and load generator read the same settings: from the environment, from `.env`, and from files in the folder that
`GREETER__SETTINGS_DIR` names. Durations are written as `30s`, `500ms`, `5m`, or a number of seconds; `none` turns off what can be turned off.
`make settings` in a project prints the values in effect; [configuration](../template/docs/configuration.md) lists settings by purpose. This page
is generated (`make docs`) for a project named Greeter; in yours, the package's name takes the place of `GREETER`.

| setting | default | description |
|---|---|---|
"""
_PROGRAM = """
from greeter.settings import Settings
from greeter.settings.command import show
from greeter.settings.sources import leaves

for name, field, value in leaves(Settings):
    default = "the host name" if name.endswith("SERVER__NAME") and "CLIENT" not in name else f"`{show(field, value)}`"
    print(f"| `{name}` | {'empty' if value == '' else default} | {' '.join((field.description or '').split())} |")
"""


def page(project: Path) -> str:
    """The page as it should be; from a default project."""
    make(project, "install")
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-c", _PROGRAM],
        cwd=project, env={"PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return _HEAD + done.stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(bake(Path(folder))))
