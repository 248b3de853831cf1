"""A project baked through cookiecutter itself, from a clean copy of the checkout: `python -m lab.bake FOLDER`."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLUG = "greeter"


def clean_copy(folder: Path) -> Path:
    """What git tracks or would track, links as links. cookiecutter copies a checkout whole, with all that lies in it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        raise SystemExit(f"bake: git cannot list the files of this checkout; clone it with git: {listed.stderr.decode().strip()}")
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and (source.is_file() or source.is_symlink()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    return folder


def cookiecutter(template: Path, output: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter as a user does, with these answers and the defaults for the others."""
    return run_cookiecutter(str(template), "--no-input", "-o", str(output), *(f"{key}={value}" for key, value in answers.items()))


def run_cookiecutter(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Its command line, untouched by the user's own configuration.

    What it keeps for later runs (clones, replays) goes to `home`; without one it is removed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        kept = home or Path(scratch)
        configuration = Path(scratch) / "configuration.yaml"
        configuration.write_text(f"replay_dir: {kept}/replays\ncookiecutters_dir: {kept}/clones\n")
        environment = {**os.environ, "TMPDIR": scratch, "COOKIECUTTER_CONFIG": str(configuration)}
        return subprocess.run([sys.executable, "-m", "cookiecutter", *arguments], env=environment, capture_output=True, text=True)


def bake(output: Path, **answers: str) -> Path:
    """The folder of a new project under `output`. Raises RuntimeError with what cookiecutter said."""
    with tempfile.TemporaryDirectory() as copy:
        done = cookiecutter(clean_copy(Path(copy)), output, **answers)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return as_old_as_the_template(next(path for path in output.iterdir() if path.is_dir()))


def as_old_as_the_template(project: Path) -> Path:
    """Give the locks the times of the template's, so that make installs the shared environment only when they have changed."""
    for lock in (ROOT / "template" / "requirements").glob("*.lock"):
        shutil.copystat(lock, project / "requirements" / lock.name)
    return project


if __name__ == "__main__":
    bake(Path(sys.argv[1]))
