"""runtime.py and bootstrap.py as a whole process: its start, its exit, its forks, and what stands beside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from discovery import ControlPlaneError
from discovery.xds import bootstrap

from .servers import DEADLINE, Server

ROOT = str(Path(__file__).parents[2])

PRELUDE = """
import asyncio, os, sys, threading, time
import grpc, grpc.aio
import discovery
address = sys.argv[1]
manual = discovery.Manual("greeter")
manual.set([address])
"""


def run(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `code`, where `discovery`, `manual` and `address` are ready."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE * 3,
    )


@pytest.fixture(scope="module")
def server():  # type: ignore[no-untyped-def]
    made = Server("a")
    yield made
    made.stop()


CALL = """
channel = discovery.insecure_channel(manual.target)
call = channel.unary_unary("/test.Echo/Who")
assert call(b"", timeout=20) == b"a"
"""

TRAFFIC = (
    CALL
    + """
going = threading.Semaphore(0)
def traffic():
    while True:
        call(b"", timeout=20); going.release()
def changes():
    while True:
        manual.set([address]); manual.set([address, "127.0.0.1:1"]); going.release()
for work in (traffic, traffic, changes):
    threading.Thread(target=work, daemon=True).start()
for _ in range(50):
    going.acquire(timeout=20)
"""
)

AIO = """
async def main():
    channel = discovery.aio.insecure_channel(manual.target)
    call = channel.unary_unary("/test.Echo/Who")
    assert await call(b"", timeout=20) == b"a"
    print("called")
asyncio.run(main())
"""


@pytest.mark.parametrize(("name", "code"), [("idle", CALL), ("mid-traffic", TRAFFIC), ("aio", AIO)])
@pytest.mark.parametrize(("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise SystemExit(4)", 4)])
def test_an_exit_with_an_open_channel_is_clean_and_quiet(server: Server, name: str, code: str, end: str, status: int) -> None:
    """No hang, no line on standard error, the exit status kept, nothing left in the temporary directory."""
    done = run(code + 'import glob; print("dir:", discovery.xds.runtime.process.plane().server_uri)\n' + end, server.address)
    assert (done.returncode, done.stderr) == (status, "")
    assert not os.path.exists(done.stdout.partition("dir: unix:")[2].strip())


def test_an_exception_keeps_its_traceback_and_status(server: Server) -> None:
    """And adds nothing of ours to it."""
    done = run(TRAFFIC + "raise ValueError('mine')", server.address)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("ValueError: mine")
    assert "discovery" not in done.stderr


FORK = """
child = os.fork()
if child == 0:
    try:
        {child}
        print("child: fine", flush=True)
    except discovery.ControlPlaneError as error:
        print("child:", error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent:", {parent}, flush=True)
"""


@pytest.mark.parametrize(
    "used",
    [
        'call(b"", timeout=20)',
        "discovery.insecure_channel(manual.target)",
        'channel.unary_unary("/x/y")(b"")',
        "call.future(b'')",
    ],
)
def test_a_channel_after_a_fork_is_refused_with_a_remedy(server: Server, used: str) -> None:
    """gRPC would crash in the child or never see another change; the parent goes on."""
    done = run(CALL + FORK.format(child=used, parent='call(b"", timeout=20)'), server.address)
    assert done.returncode == 0, done.stderr
    assert "child: this process was forked from one with open discovery channels" in done.stdout
    assert "spawn, or fork before the first channel" in done.stdout
    assert "parent: b'a'" in done.stdout


def test_closing_a_channel_in_a_forked_child_does_no_harm(server: Server) -> None:
    """A `with` block that was entered before the fork ends in both processes."""
    done = run(CALL + FORK.format(child="channel.close()", parent='call(b"", timeout=20)'), server.address)
    assert "child: fine" in done.stdout
    assert "parent: b'a'" in done.stdout


def test_a_fork_before_the_first_channel_is_fine(server: Server) -> None:
    """Each process has a control plane of its own."""
    own = "c = discovery.insecure_channel(manual.target).unary_unary('/test.Echo/Who'); assert c(b'', timeout=20) == b'a'"
    done = run(FORK.format(child=own, parent="0") + CALL, server.address)
    assert (done.returncode, done.stdout) == (0, "child: fine\nparent: 0\n"), done.stderr


def test_a_fork_after_every_channel_was_closed_is_fine(server: Server) -> None:
    """The child starts anew."""
    own = "c = discovery.insecure_channel(manual.target).unary_unary('/test.Echo/Who'); assert c(b'', timeout=20) == b'a'"
    done = run(CALL + "channel.close()\n" + FORK.format(child=own, parent="0"), server.address)
    assert (done.returncode, done.stdout) == (0, "child: fine\nparent: 0\n"), done.stderr


def test_a_spawned_child_has_a_control_plane_of_its_own(server: Server) -> None:
    """It inherits a bootstrap that names the parent's socket, and replaces it."""
    child = PRELUDE + CALL + "print(os.environ['GRPC_XDS_BOOTSTRAP_CONFIG'])"
    code = (
        CALL
        + f"import subprocess; done = subprocess.run([sys.executable, '-c', {child!r}, address], capture_output=True, text=True, timeout=30)\n"
        + "print(done.stderr, done.stdout if done.stdout.strip() != os.environ['GRPC_XDS_BOOTSTRAP_CONFIG'] else 'the same')"
    )
    done = run(code, server.address)
    assert done.returncode == 0, done.stderr
    merged = json.loads(done.stdout)
    assert len(merged["xds_servers"]) == 1
    assert merged["authorities"].keys() == {"grpc-discovery"}


@pytest.mark.parametrize("place", ["file", "text"])
def test_the_users_own_control_plane_works_beside_ours(server: Server, tmp_path: Path, place: str) -> None:
    """In one process, whether its bootstrap is a file or a variable: ours is an authority of its own."""
    code = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
import json
from tests.discovery.external_plane import ExternalPlane
external = ExternalPlane("elsewhere", address)
bootstrap = json.dumps({{"xds_servers": [{{"server_uri": external.uri, "channel_creds": [{{"type": "insecure"}}], "server_features": ["xds_v3"]}}], "node": {{"id": "me"}}}})
if {place!r} == "file":
    open({str(tmp_path / "bootstrap.json")!r}, "w").write(bootstrap)
    os.environ["GRPC_XDS_BOOTSTRAP"] = {str(tmp_path / "bootstrap.json")!r}
else:
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstrap
theirs = discovery.insecure_channel("xds:///elsewhere").unary_unary("/test.Echo/Who")
ours = discovery.insecure_channel(manual.target).unary_unary("/test.Echo/Who")
print(theirs(b"", timeout=20), ours(b"", timeout=20), external.asked)
"""
    done = run(code, server.address)
    assert done.stdout == "b'a' b'a' ['elsewhere']\n", done.stderr


def test_an_xds_target_without_a_bootstrap_is_refused_even_beside_ours(server: Server) -> None:
    """Our own entry is not the control plane that was meant."""
    code = CALL + "try:\n    discovery.insecure_channel('xds:///x')\nexcept discovery.TargetError as error:\n    print(error)"
    assert "needs an external xDS control plane" in run(code, server.address).stdout


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({bootstrap.FILE: "/nowhere/bootstrap.json"}, "/nowhere/bootstrap.json"),
        ({bootstrap.TEXT: "{not json"}, bootstrap.TEXT),
        ({bootstrap.TEXT: "[]"}, "must be a JSON object"),
        ({bootstrap.TEXT: '{"authorities": 3}'}, "must be a JSON object"),
    ],
)
def test_a_bootstrap_that_cannot_be_merged_is_an_error_and_stays_as_it_was(environment: dict[str, str], named: str) -> None:
    """Never a silent loss of somebody's control plane."""
    before = dict(environment)
    with pytest.raises(ControlPlaneError, match="fix it or unset it") as error:
        bootstrap.merge(environment, "unix:/ads")
    assert named in str(error.value)
    assert environment == before


def test_copies_in_one_process_share_a_control_plane(server: Server, tmp_path: Path) -> None:
    """As two typed clients of other projects bring them; a copy that is closed and one of another version do no harm to the other."""
    for name in ("billing", "shipping"):
        shutil.copytree(Path(ROOT) / "discovery", tmp_path / name / "discovery", ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / name / "__init__.py").touch()
    proto = tmp_path / "shipping" / "discovery" / "wire" / "messages_pb2.py"
    changed = proto.read_text().replace("UInt32Value", "UInt32Other")  # an older version's messages
    proto.write_text(changed)
    for path in (tmp_path / "shipping" / "discovery").rglob("*.py"):
        path.write_text(path.read_text().replace("UInt32Value", "UInt32Other"))
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import billing.discovery, shipping.discovery
for copy in (billing.discovery, shipping.discovery):
    own = copy.Manual("greeter")
    own.set([address])
    channels = [copy.insecure_channel(own.target), copy.insecure_channel("static:///" + address)]
    for channel in channels:
        assert channel.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
    assert copy.status(own.target).nacks == 0
    channels[0].close()
with discovery.insecure_channel(manual.target) as channel:
    assert channel.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
"""
    done = run(code, server.address)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_incompatible_copy_in_one_process_is_refused() -> None:
    """gRPC reads one bootstrap; the second copy's channels would find no control plane."""
    environment: dict[str, str] = {}
    bootstrap.merge(environment, "unix:/one")
    with pytest.raises(ControlPlaneError, match="another copy of this library"):
        bootstrap.merge(environment, "unix:/two")


def test_what_the_user_wrote_is_kept_whole() -> None:
    """Servers, node, authorities and certificate providers."""
    user = {
        "xds_servers": [{"server_uri": "x:1"}],
        "node": {"id": "n"},
        "authorities": {"b": {}},
        "certificate_providers": {"c": {}},
    }
    environment = {bootstrap.TEXT: json.dumps(user)}
    bootstrap.merge(environment, "unix:/ads")
    merged = json.loads(environment[bootstrap.TEXT])
    for key, value in user.items():
        assert merged[key] == value or (key == "authorities" and merged[key].items() >= {"b": {}}.items())
    assert bootstrap.users_own(environment)
