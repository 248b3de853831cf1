"""Two projects and the library, installed in one environment by pip: nothing of them overlaps, and each works without the others."""

import contextlib
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import discovery
from tests.bake import ENVIRONMENT, ROOT, clean_copy

from .conftest import alone
from .environments import PIP, run
from .repositories import commit_all

NAMES = ("billing", "shipping", "grpc_discovery")
CONSUMER = '''
"""Calls two services by their typed clients, and both by the library, in one process."""

import asyncio
import sys

import discovery
from billing.client.api import BillingClient
from shipping.client.api import ShippingClient


async def main(billing: str, shipping: str) -> None:
    """Each client has a copy of the library in its package."""
    async with BillingClient(f"static:///{billing}", timeout=20.0) as one, ShippingClient(f"static:///{shipping}") as other:
        first = await one.greet("Ada", timeout=20.0)
        message: str = first.message
        greetings = [greeting.message async for greeting in other.watch_greetings(message, interval=0.001, count=2)]
        assert len(greetings) == 2, greetings
    for address in (billing, shipping):
        with discovery.insecure_channel(f"static:///{address}") as channel:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20.0)
        async with discovery.aio.insecure_channel(f"static:///{address}") as other_channel:
            await other_channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20.0)


asyncio.run(main(*sys.argv[1:]))
'''
PROGRAM = """
import asyncio, importlib.util, sys
from billing.client.api import BillingClient

async def main():
    assert importlib.util.find_spec("shipping") is importlib.util.find_spec("discovery") is None
    async with BillingClient(f"static:///{sys.argv[1]}", timeout=20.0) as client:
        print((await client.greet("Ada")).message)

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def clients(shared: Path, wheels: dict[str, Path]) -> Path:
    """The Python of an environment with all three, and nothing that they do not ask for."""
    environment = shared / "clients"
    with alone(shared / "clients.lock"):
        if not environment.exists():
            venv.create(environment, with_pip=True)
            run(environment / "bin/python", *PIP, "install", *wheels.values())
    return environment / "bin/python"


def test_a_wheel_holds_one_package_of_its_own(wheels: dict[str, Path]) -> None:
    """So that nothing of two wheels has one place."""
    assert set(wheels) == set(NAMES)
    seen: set[str] = set()
    for name, path in wheels.items():
        package = name.removeprefix("grpc_")
        with zipfile.ZipFile(path) as archive:
            files = set(archive.namelist())
        assert {file.split("/")[0] for file in files} == {
            package,
            next(file for file in files if "dist-info" in file).split("/")[0],
        }
        assert f"{package}/py.typed" in files
        assert not files & seen
        assert not [file for file in files if "test" in file.split("/")[-1] and not file.endswith("/testing.py")]
        seen |= files
    for name in ("billing", "shipping"):
        stubs = {f"{name}/v1/{name}_pb2{end}" for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi")}
        assert stubs | {f"{name}/discovery/py.typed", f"{name}/v1/__init__.py"} <= seen


def test_a_client_brings_no_dependency_of_the_servers(clients: Path) -> None:
    """Who calls needs gRPC, protobuf, and the APIs of two standards: OpenTelemetry's, and google.rpc.Status."""
    show = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"
    names = {name.lower().replace("_", "-") for name in json.loads(run(clients, "-c", show))} - {"pip", "setuptools", "wheel"}
    standards = {"opentelemetry-api", "grpcio-status", "googleapis-common-protos"}
    assert names == {"billing", "shipping", "grpc-discovery", "grpcio", "protobuf", "typing-extensions"} | standards


@contextlib.contextmanager
def server(project: Path) -> Iterator[str]:
    """The address of a project's own server."""
    package = project.name
    settings = {f"{package.upper()}__SERVER__{name}": value for name, value in (("HOST", "127.0.0.1"), ("PORT", "0"))}
    command = [str(ENVIRONMENT / "bin/python"), "-m", f"{package}.server"]
    environment = {**os.environ, "PYTHONPATH": "src", **settings}
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"serving.* port (\d+)", line):
                yield f"127.0.0.1:{found[1]}"
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.communicate()


def test_both_clients_and_the_library_call_real_servers_in_one_process(
    clients: Path, project_of: Callable[[str], Path], shared: Path, tmp_path: Path
) -> None:
    """There are three copies of the library in it."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    with server(project_of("billing")) as billing, server(shared / "shipping" / "shipping") as shipping:
        run(clients, "consumer.py", billing, shipping, cwd=tmp_path)


def test_one_client_works_after_the_others_are_uninstalled(
    wheels: dict[str, Path], project_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nothing that it needs was theirs."""
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    run(python, *PIP, "install", *wheels.values())
    run(python, *PIP, "uninstall", "--yes", "shipping", "grpc-discovery")
    (tmp_path / "program.py").write_text(PROGRAM)
    with server(project_of("billing")) as billing:
        assert run(python, "program.py", billing, cwd=tmp_path) == "Hello, Ada!\n"


def test_a_consumer_is_checked_strictly(clients: Path, tmp_path: Path) -> None:
    """`mypy --strict` sees the types of the clients and of the library."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    (tmp_path / "wrong.py").write_text(CONSUMER.replace("message: str", "message: int"))
    check = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(clients)]
    run(*check, "consumer.py", cwd=tmp_path)
    done = subprocess.run([*check, "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    assert 'has type "str"' in done.stdout


def test_the_library_is_installed_from_a_git_url(tmp_path: Path) -> None:
    """With extras for what a source or the command line needs; its version is the changelog's."""
    work = clean_copy(tmp_path / "work")
    commit_all(work)
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment/bin/python"
    run(python, *PIP, "install", "--no-deps", f"git+file://{work}")
    show = (
        "import importlib.metadata as m, json; d = m.distribution('grpc-discovery'); print(json.dumps([d.version, d.requires]))"
    )
    version, requires = json.loads(run(python, "-c", show, cwd=tmp_path))
    assert version == discovery.__version__
    extras = {
        (re.split(r"[<>=;\s]", line)[0], re.findall(r'extra == "(\w+)"', line)[0]) for line in requires if "extra ==" in line
    }
    assert extras == {
        ("dnspython", "dns"),
        ("kubernetes", "kubernetes"),
        ("rich", "cli"),
        ("grpcio-status", "calls"),
        ("opentelemetry-api", "calls"),
        ("dnslib", "testing"),
        ("trustme", "testing"),
    }
    assert {re.split(r"[<>=;\s]", line)[0] for line in requires if "extra ==" not in line} == {"grpcio", "protobuf"}


def test_the_version_is_the_changelogs() -> None:
    """Its first heading with a number."""
    found = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found
    assert found[1] == discovery.__version__
