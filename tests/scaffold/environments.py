"""Virtual environments for tests, made by pip as a user makes them."""

import subprocess
import venv
from pathlib import Path

from tests.bake import ENVIRONMENT

PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What it printed. Raises AssertionError with what it said where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


def beside_the_shared_one(folder: Path, *wheels: Path) -> Path:
    """An environment with these wheels and the packages of the one that all projects share, which make takes for installed."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, *PIP, "install", "--no-deps", *wheels)
    shared = next((ENVIRONMENT / "lib").glob("python3*/site-packages"))
    next((folder / "lib").glob("python3*/site-packages")).joinpath("shared.pth").write_text(f"{shared}\n")
    for program in (ENVIRONMENT / "bin").iterdir():
        if not (folder / "bin" / program.name).exists():
            (folder / "bin" / program.name).symlink_to(program)
    (folder / "installed").touch()
    return folder
