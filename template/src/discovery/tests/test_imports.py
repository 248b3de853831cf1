"""The map of the folder: imports point one way, nothing outside is needed, and nothing else is public."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import __all__ as public

FOLDER = Path(__file__).parents[1]

LAYERS = [
    {"errors", "snapshot"},
    {"certificates", "config", "target", "status", "guard", "routes", "sharding", "zones"},
    {"waits", "etcd_client", "memory"},
    {"source", "health", "metrics"},
    {"registrar"},
    {"resolver", "resources", "terminal"},
    {"failover"},
    {"bootstrap", "control_plane"},
    {"lifetime", "native"},
    {"renewal"},
    {"channel", "aio_renewal"},
    {"aio"},
    {"__init__"},
    {"__main__"},
]
"""A file imports from the layers above it, and within its own layer only forwards in this list; sources see the first three."""

SIBLINGS = {
    ("status", "snapshot"),
    ("guard", "config"),
    ("target", "snapshot"),
    ("source", "config"),
    ("source", "target"),
    ("control_plane", "resources"),
}


def imported(path: Path) -> set[str]:
    """The folder's own modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
    return found - {"wire", "sources"}


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_imports_point_one_way(layer: int) -> None:
    """A source knows nothing of resolvers, a resolver nothing of xDS, the control plane nothing of registries."""
    above = set().union(*LAYERS[:layer])
    for module in LAYERS[layer]:
        for other in imported(FOLDER / f"{module}.py"):
            assert other in above or (module, other) in SIBLINGS or (other in LAYERS[layer] and layer in (1, 4)), (
                f"{module} imports {other}"
            )


def test_every_file_has_its_place_on_the_map() -> None:
    """A new file is put into a layer."""
    assert {path.stem for path in FOLDER.glob("*.py")} == set().union(*LAYERS)


def test_sources_see_only_what_a_source_needs() -> None:
    """Values, errors, settings; never a resolver."""
    for path in (FOLDER / "sources").glob("*.py"):
        assert imported(path) <= {"config", "errors", "snapshot", "target", "etcd_client", "endpoint_slices"}, path.name


def test_only_relative_imports_and_known_libraries_are_used() -> None:
    """So the folder works wherever it is copied."""
    allowed = {"grpc", "google", "dns", "rich", "opentelemetry", "kubernetes", "urllib3"} | set(sys.stdlib_module_names)
    for path in [*FOLDER.glob("*.py"), *(FOLDER / "sources").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_importing_it_needs_no_registrys_library_and_starts_nothing() -> None:
    """Only grpcio and protobuf; a source is imported when a target asks for it."""
    package = __package__.rpartition(".")[0]
    code = (
        f"import sys, threading, {package}\n"
        "print(sorted({'dns', 'kubernetes', 'rich'} & {name.split('.')[0] for name in sys.modules}), threading.active_count())"
    )
    root = str(FOLDER.parents[package.count(".")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[] 1\n", done.stderr


def test_the_public_names() -> None:
    """A name more or less is a decision."""
    assert sorted(public) == public
    assert set(public) == {
        "Backoff", "CertificateError", "CertificateFiles", "Config", "ControlPlaneError", "DiscoveryError", "Dns", "Empty", "Endpoint", "Etcd", "Health", "Kubernetes", "Manual",
        "NotSyncedError", "Outliers", "Registrar", "RegistrationError", "Snapshot", "SourceError", "Status", "TargetError", "aio", "insecure_channel", "secure_channel", "status",
        "wait_until_synced",
    }  # fmt: skip
