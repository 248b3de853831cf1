"""Locks name every package with its version and hashes, and nothing of where it came from."""

import re
import tomllib

import pytest

from .bake import ROOT

LOCKS = {"requirements.lock": ROOT / "requirements.lock", "dev.lock": ROOT / "template" / "requirements" / "dev.lock"}


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
    extras = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    return {"requirements.lock": own, "dev.lock": [*project["dependencies"], *extras]}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_declared_dependency_is_locked(lock: str) -> None:
    """A declaration without `make lock` would fail only on the machine of the next person."""
    locked = set(re.findall(r"^([a-z0-9.-]+)==", LOCKS[lock].read_text(), re.MULTILINE))
    wanted = {re.split(r"[<>=!~\[; ]", entry, maxsplit=1)[0].lower().replace("_", "-") for entry in declared()[lock]}
    assert wanted
    assert wanted <= locked
