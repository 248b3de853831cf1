"""Before the questions: repair the two links of this repository if a download or a clone has lost them.

`{{cookiecutter.project_slug}}` leads to `template/`: cookiecutter needs a folder with a templated name at the root.
`template/src/{{cookiecutter.package_name}}/discovery` leads to `discovery/`: every project carries a copy of the library.
A zip archive, or a checkout with core.symlinks=false, turns each into a small text file. cookiecutter runs this script, as it
is written here, in its own temporary copy of the repository, so nothing of the user's is touched.
"""

import shutil
from pathlib import Path

LINKS = {
    "template/src/{{cookiecutter.package_name}}/discovery": "discovery",
    "{{cookiecutter.project_slug}}": "template",
}


def repair(root: Path) -> list[str]:
    """Replace each broken link with a copy of the folder; the links that were replaced."""
    broken = [link for link in LINKS if not (root / link).is_dir()]
    for link in broken:
        (root / link).unlink(missing_ok=True)
        shutil.copytree(root / LINKS[link], root / link, symlinks=True)
    return broken


def clear_caches(root: Path) -> None:
    """Delete compiled Python, because cookiecutter copies everything in the checkout."""
    for cache in list((root / "{{cookiecutter.project_slug}}").rglob("__pycache__")):
        shutil.rmtree(cache)


if __name__ == "__main__":
    repair(Path.cwd())
    clear_caches(Path.cwd())
