"""Locks name every package with its version and hashes, nothing of where it came from, and are what was declared."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from packaging.requirements import Requirement

from tests.bake import ROOT

FOLDER = ROOT / "template" / "requirements"
LOCKS = {path.name: path for path in (ROOT / "requirements.lock", *sorted(FOLDER.glob("*.lock")))}
EXTRAS = {"dev.lock": None, "image.lock": ("server", "dns", "kubernetes", "otlp")}
"""Which of the project's extras a lock has, those that they name included; None is all."""


@dataclass
class Pin:
    """One package of a lock. via: what wants it, packages or files."""

    version: str
    hashes: set[str] = field(default_factory=set)
    via: set[str] = field(default_factory=set)


def pins(lock: str) -> dict[str, list[Pin]]:
    """By name; a package may have several versions, for several kinds of machine."""
    found: dict[str, list[Pin]] = {}
    for line in LOCKS[lock].read_text().splitlines():
        if pinned := re.match(r"([a-z0-9.-]+)==([^ ]+)", line):
            pin = Pin(pinned[2])
            found.setdefault(pinned[1], []).append(pin)
        elif hashed := re.search(r"--hash=(\S+)", line):
            pin.hashes.add(hashed[1])
        elif wanted := line.strip().removeprefix("#").strip().removeprefix("via").strip():
            pin.via.add(wanted)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_a_pinned_package_or_a_hash_and_no_address(lock: str) -> None:
    """An index belongs to a machine, so it is never written down."""
    for line in LOCKS[lock].read_text().splitlines():
        pinned = re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; [^:/]+)? \\", line)
        source = re.fullmatch(r"    #( via)?( {1,3})(-r )?(requirements/)?[^:/]+", line) or line == "    # via"
        assert pinned or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) or source, line


@pytest.mark.parametrize("lock", LOCKS)
def test_no_package_is_without_a_hash(lock: str) -> None:
    """pip would refuse the whole lock, but only when somebody installs it."""
    assert all(pin.hashes for versions in pins(lock).values() for pin in versions)


def declared(lock: str) -> list[Requirement]:
    """What a lock is made from. The template's own declaration holds markup, but not in these lines."""
    inputs = {"requirements.lock": ROOT / "requirements.in", "tools.lock": FOLDER / "tools.in"}
    if lock in inputs:
        return [Requirement(line) for line in inputs[lock].read_text().splitlines() if line and not line.startswith("#")]
    text = (ROOT / "template" / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("{%") and "{{" not in line]
    project = tomllib.loads("\n".join(lines))["project"]
    extras = project["optional-dependencies"]
    chosen = [entry for extra in EXTRAS[lock] or extras for entry in extras[extra]]
    return [Requirement(entry) for entry in [*project["dependencies"], *chosen]]


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_declared_is_locked_in_a_version_that_was_declared_and_nothing_else_is(lock: str) -> None:
    """A declaration without `make lock` would fail only on the machine of the next person."""
    locked = pins(lock)
    wanted = {requirement.name.lower().replace("_", "-"): requirement for requirement in declared(lock)}
    for name, requirement in wanted.items():
        assert name in locked, f"{name} is declared and not in {lock}: make lock"
        for pin in locked[name]:
            assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement} is not {pin.version}: make lock"
    direct = {name for name, versions in locked.items() if any(from_a_file(via) for pin in versions for via in pin.via)}
    assert direct == set(wanted), f"{lock} was made from another declaration: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_other_package_is_there_for_one_that_is_there_too(lock: str) -> None:
    """What nobody wants any more is gone."""
    locked = pins(lock)
    for name, versions in locked.items():
        for via in (via for pin in versions for via in pin.via if not from_a_file(via)):
            assert via.partition("[")[0] in locked, f"{name} is in {lock} for {via}: make lock"


def from_a_file(via: str) -> bool:
    """Whether that is a declaration, as uv writes it: `-r requirements.in`, `greeter (pyproject.toml)`."""
    return via.startswith("-r ") or via.endswith("(pyproject.toml)")


def pairs() -> Iterator[tuple[str, str]]:
    names = [name for name in LOCKS if name != "tools.lock"]
    return ((one, other) for index, one in enumerate(names) for other in names[index + 1 :])


@pytest.mark.parametrize(("one", "other"), list(pairs()))
def test_locks_agree_on_what_they_share(one: str, other: str) -> None:
    """What is developed and tested is what is deployed, to the byte. Tools have an environment, and a lock, of their own."""
    here, there = pins(one), pins(other)
    for name in here.keys() & there.keys():
        assert here[name][0].version == there[name][0].version, f"{name} differs between {one} and {other}: make lock"
        assert here[name][0].hashes == there[name][0].hashes, name


def test_every_lock_is_made_by_make_lock() -> None:
    """One command refreshes them all."""
    recipe = (ROOT / "template/Makefile").read_text() + (ROOT / "Makefile").read_text()
    for name in LOCKS:
        assert f"-o requirements/{name}" in recipe or f"-o {name}" in recipe, name
