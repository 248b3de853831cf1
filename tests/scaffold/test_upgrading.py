"""docs/upgrading.md of a project: the library as a dependency instead of a copy."""

from pathlib import Path

import pytest

from tests.bake import make

from .environments import beside_the_shared_one, run
from .snippets import sections

SECTION = "Depend on the library instead of a copy"


@pytest.fixture(scope="module")
def environment(linted: Path, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with the library's wheel."""
    return beside_the_shared_one(tmp_path_factory.mktemp("environment") / "venv", wheels["grpc_discovery"])


def test_the_library_as_a_dependency(greeter: Path, environment: Path) -> None:
    """Lint and tests are green, and nothing of the copy is left."""
    for snippet in sections((greeter / "docs/upgrading.md").read_text())[SECTION]:
        snippet.apply(greeter)
    assert sorted(path.name for path in (greeter / "src/greeter/discovery").iterdir()) == ["__init__.py", "calls", "errors.py"]
    make(greeter, "lint", "test", venv=environment)
    where = "import greeter.discovery, discovery; assert greeter.discovery.aio is discovery.aio; print(discovery.__file__)"
    assert run(environment / "bin" / "python", "-c", where, cwd=greeter / "src").startswith(str(environment))
