"""Before the questions: repair the link that cookiecutter looks for, where a download or a clone has lost it.

cookiecutter needs a folder with a templated name at the root. Here it is a link to `template/`, a real folder that tools and
people can read. A zip archive or a checkout without symbolic links turns it into a small text file. cookiecutter runs this
in its own temporary copy of the repository, so nothing of the user's is touched.
"""

from pathlib import Path

LINK = "{% raw %}{{cookiecutter.project_slug}}{% endraw %}"


def repair(root: Path, link: str = LINK) -> bool:
    """Make `link` a folder under `root`; tells whether anything had to be done."""
    # Unrendered, as cookiecutter runs this hook, the name still stands between its marks.
    place = root / link.removeprefix("{% raw %}").removesuffix("{% endraw %}")
    if place.is_dir():
        return False
    place.unlink(missing_ok=True)
    (root / "template").rename(place)
    return True


if __name__ == "__main__":
    repair(Path.cwd())
