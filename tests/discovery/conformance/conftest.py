"""Runs every promise on every registry that can make it, and prints the table of both."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery import testing

from .registry import Registry

REGISTRIES = {"static": "StaticRegistry", "manual": "ManualRegistry", "dns": "DnsRegistry", "etcd": "EtcdRegistry", "kubernetes": "KubernetesRegistry", "api_server": "ApiServerRegistry", "registered": "RegisteredRegistry"}  # fmt: skip
"""File beside this one, and its class. A project that was made without a registry has no such file."""


def registries() -> dict[str, type[Registry]]:
    """Those that this copy of the folder has."""
    found = {}
    for module, name in REGISTRIES.items():
        if (Path(__file__).parent / f"{module}.py").exists():
            kind: type[Registry] = getattr(importlib.import_module(f".{module}", __package__), name)
            found[kind.name] = kind
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A promise that has no meaning for a registry is not tried on it; the table says why."""
    if "registry" in metafunc.fixturenames:
        kinds = [kind for kind in registries().values() if metafunc.function.__name__ not in kind.lacks]
        parameters = [pytest.param(kind, marks=kind.marks, id=kind.name) for kind in kinds]
        metafunc.parametrize("registry", parameters, indirect=True)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One etcd for all of its tests."""
    server = testing.EtcdServer(tmp_path_factory.mktemp("etcd") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A new one for every test."""
    given: dict[str, Any] = {
        "etcd": lambda: (request.getfixturevalue("etcd_server"),),
        "kubernetes": lambda: (tmp_path,),
        "registered": lambda: (tmp_path,),
    }
    made: Registry = request.param(*given.get(request.param.name, tuple)())
    yield made
    made.close()


_outcomes: dict[tuple[str, str], str] = {}
_promises: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note what came of a promise on a registry; a failure outweighs."""
    report = yield
    parameters: dict[str, Any] = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if isinstance(item, pytest.Function) and "registry" in parameters:
        test, kind = item.originalname, parameters["registry"].name
        _promises[test] = (item.function.__doc__ or "").partition("\n")[0]
        if report.when == "call" or report.outcome != "passed":
            known = _outcomes.get((test, kind))
            _outcomes[test, kind] = report.outcome if known in (None, "passed") else known
    return report


def page() -> str:
    """The table, as Markdown: a promise a line, a registry a column."""
    kinds = registries()
    words = {"passed": "yes", "failed": "**NO**", "skipped": "not run"}
    lines = ["| promise | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    notes: list[str] = []
    for test, promise in _promises.items():
        cells = []
        for name, kind in kinds.items():
            cell = words.get(_outcomes.get((test, name), ""), "not run")
            if reason := kind.lacks.get(test):
                if reason not in notes:
                    notes.append(reason)
                cell = f"– ({notes.index(reason) + 1})"
            cells.append(cell)
        lines.append(f"| {promise} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(notes, 1)), ""])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print it, and write it where CONFORMANCE_PAGE names a file: the page of docs/."""
    if not _outcomes:
        return
    terminalreporter.section("promises and sources")
    terminalreporter.write_line(page())
    if path := os.environ.get("CONFORMANCE_PAGE"):
        head = Path(path).read_text().partition("\n| promise")[0]
        Path(path).write_text(f"{head}\n{page()}")
