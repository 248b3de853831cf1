"""Locks name every package with its version and hashes, and nothing of where it came from."""

import re
import tomllib

import pytest

from .bake import ROOT

REQUIREMENTS = ROOT / "template" / "requirements"
LOCKS = {
    "requirements.lock": ROOT / "requirements.lock",
    "dev.lock": REQUIREMENTS / "dev.lock",
    "image.lock": REQUIREMENTS / "image.lock",
}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_a_pinned_package_or_a_hash_and_no_address(lock: str) -> None:
    """An index belongs to a machine, so it is never written down."""
    for line in LOCKS[lock].read_text().splitlines():
        pinned = re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; [^:/]+)? \\", line)
        assert pinned or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) or re.fullmatch(r"    #[^:/]*", line), line


def declared() -> dict[str, list[str]]:
    """What each lock is made from. The template's own declaration holds markup, but not in these lines."""
    own = [line for line in (ROOT / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    text = (ROOT / "template" / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("{%") and "{{" not in line]
    project = tomllib.loads("\n".join(lines))["project"]
    extras = project["optional-dependencies"]
    return {
        "requirements.lock": own,
        "dev.lock": [*project["dependencies"], *(entry for extra in extras.values() for entry in extra)],
        "image.lock": [*project["dependencies"], *extras["otlp"]],
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_every_declared_dependency_is_locked(lock: str) -> None:
    """A declaration without `make lock` would fail only on the machine of the next person."""
    locked = set(re.findall(r"^([a-z0-9.-]+)==", LOCKS[lock].read_text(), re.MULTILINE))
    wanted = {re.split(r"[<>=!~\[; ]", entry, maxsplit=1)[0].lower().replace("_", "-") for entry in declared()[lock]}
    assert wanted
    assert wanted <= locked


def test_the_image_has_what_was_tested_and_nothing_that_only_develops() -> None:
    """Its lock is a part of the developers', with the same versions and hashes."""
    locks = {
        name: dict(re.findall(r"^([a-z0-9.-]+)(==.*\n(?:    --hash.*\n)+)", LOCKS[name].read_text(), re.MULTILINE))
        for name in LOCKS
    }
    assert locks["image.lock"].items() < locks["dev.lock"].items()
    assert not {"pytest", "mypy", "ruff", "grpcio-tools", "pip"} & locks["image.lock"].keys()
