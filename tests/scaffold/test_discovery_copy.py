"""The library's folder alone, copied into a project that has nothing to do with ours."""

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.bake import ROOT

PROGRAM = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
import grpc, grpc.aio
from somewhere import finder

for library in ("dns", "rich", "opentelemetry", "kubernetes"):
    try:
        __import__(library)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{library} is installed: this proves nothing")

server = grpc.server(ThreadPoolExecutor(4))
answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello")
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", {"Z": answer}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
manual = finder.Manual("greeter")
manual.set([f"127.0.0.1:{port}"])
with finder.insecure_channel(manual.target) as channel:
    assert channel.unary_unary("/x.Y/Z")(b"", timeout=20) == b"hello"

async def main():
    async with finder.aio.insecure_channel(f"static:///127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/x.Y/Z")(b"", timeout=20) == b"hello"
        assert finder.status(f"static:///127.0.0.1:{port}").nacks == 0

asyncio.run(main())
try:
    finder.insecure_channel("dns-poll:///x:80")
except finder.TargetError as error:
    print(error)
server.stop(None)
"""

VERSIONS = {
    "newest": ["grpcio", "protobuf"],
    "lowest": ["grpcio==1.62.3", "protobuf==4.21.12"],
}
"""The range that discovery/README.md states; the upper end is whatever is newest."""


@pytest.mark.parametrize("versions", VERSIONS)
def test_the_folder_works_under_another_name_with_grpcio_and_protobuf_only(tmp_path: Path, versions: str) -> None:
    """Sync and aio, at both ends of the range of versions; what needs a library says which."""
    project = tmp_path / "project"
    (project / "somewhere").mkdir(parents=True)
    (project / "somewhere" / "__init__.py").touch()
    shutil.copytree(ROOT / "discovery", project / "somewhere" / "finder", ignore=shutil.ignore_patterns("__pycache__"))
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *VERSIONS[versions]], check=True)
    done = subprocess.run([python, "-c", PROGRAM], cwd=project, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "needs the library dnspython: pip install dnspython" in done.stdout
    shown = subprocess.run(
        [python, "-m", "somewhere.finder", "resolve", "static:///127.0.0.1:1", "--no-health"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert "127.0.0.1:1" in shown.stdout
