"""The map of the folder: imports point one way, nothing outside is needed, and nothing else is public."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import discovery
from discovery import __all__ as public

FOLDER = Path(discovery.__file__).parent

VALUES = {"errors", "snapshot", "config", "target", "status", "wire"}

MAY_IMPORT: dict[str, set[str]] = {
    "wire": set(),
    "calls": set(),
    "balancing": {"snapshot"},
    "sources": VALUES | {"tls.certificates"},
    "resolving": VALUES | {"sources", "tls.certificates", "metrics"},
    "registration": VALUES | {"sources.etcd", "sources.etcd_client", "resolving.backoff"},
    "tls": {"errors", "config"},
    "xds": VALUES | {"balancing", "resolving", "tls.certificates", "metrics"},
    "testing": VALUES | {"sources.etcd_client", "xds", "channel", "aio"},
}
"""What each folder imports besides itself: data flows from a source to a resolver to the control plane, and imports point back."""

TOP = [
    "errors", "snapshot", "config", "target", "status", "metrics", "grpc_schemes", "channel", "aio", "__init__", "terminal", "__main__",
]  # fmt: skip
"""The public face: each file imports only what stands before it, and any folder."""


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name, generated ones left out."""
    found = (path for path in FOLDER.rglob("*.py") if not path.stem.endswith("_pb2") and "__pycache__" not in path.parts)
    return {".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__"): path for path in found}


def imported(name: str, path: Path) -> set[str]:
    """The library's own modules that a file imports, by dotted name."""
    known = modules()
    package = name.split(".") if path.stem == "__init__" and name != "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            start = ".".join(part for part in base if part)
            for alias in node.names:
                full = f"{start}.{alias.name}" if start else alias.name
                found.add(full if full in known else start or "__init__")
    return found


def folder_of(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_one_way(name: str) -> None:
    """A source knows nothing of resolvers, a resolver nothing of xDS, the control plane nothing of registries."""
    for other in imported(name, modules()[name]) - {name}:
        assert folder_of(other) != "testing" or folder_of(name) == "testing", f"{name} imports {other}, which is for tests"
        if name in TOP:
            assert other not in TOP or TOP.index(other) < TOP.index(name), f"{name} imports {other}"
        elif folder_of(other) != folder_of(name):
            allowed = MAY_IMPORT[folder_of(name)]
            assert other in allowed or folder_of(other) in allowed, f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Within a folder, too, there is an order."""
    graph = {name: imported(name, path) - {name} for name, path in modules().items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_file_has_its_place_on_the_map() -> None:
    """A new file is put into a folder, or its place in the public face is decided."""
    assert {name for name in modules() if "." not in name and modules()[name].parent == FOLDER} == set(TOP)
    assert {folder_of(name) for name in modules()} - set(TOP) == set(MAY_IMPORT)


def test_only_relative_imports_and_known_libraries_are_used() -> None:
    """So the folder works wherever it is copied."""
    allowed = {
        "grpc",
        "google",
        "dns",
        "rich",
        "grpc_status",
        "opentelemetry",
        "kubernetes",
        "urllib3",
        "dnslib",
        "trustme",
    } | set(sys.stdlib_module_names)
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_importing_it_needs_no_registrys_library_and_starts_nothing() -> None:
    """Only grpcio and protobuf; a source is imported when a target asks for it, and OpenTelemetry's API by the program."""
    code = (
        "import sys, threading, discovery\n"
        "print(sorted({'dns', 'kubernetes', 'rich', 'dnslib', 'trustme'} & {name.split('.')[0] for name in sys.modules}), threading.active_count())"
    )
    root = str(FOLDER.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[] 1\n", done.stderr


def test_the_public_names() -> None:
    """A name more or less is a decision."""
    assert len(set(public)) == len(public)
    assert set(public) == {
        "Backoff", "CertificateError", "CertificateFiles", "Config", "ControlPlaneError", "DiscoveryError", "Dns", "Empty", "Endpoint", "Etcd", "Health", "Kubernetes", "Manual", "NotSyncedError", "Outliers", "Registrar", "RegistrationError", "Remember", "Snapshot", "Source", "SourceError", "Status", "Target", "TargetError", "aio", "explain_tls", "insecure_channel", "parse_target", "register", "secure_channel", "service_config_problems", "status", "wait_until_synced",
    }  # fmt: skip
