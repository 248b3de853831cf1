"""runtime.py, bootstrap.py and socket_directory.py as a whole process: its start, its exit, its forks, and what stands beside it."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery import ControlPlaneError
from discovery.xds import bootstrap, socket_directory
from discovery.xds.socket_directory import SocketDirectory, sweep

from .servers import DEADLINE, Server, servers

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
    """The child starts anew. No thread of the parent is in gRPC, which says so on standard error, and with old versions is not usable in
    the child."""
    own = "c = discovery.insecure_channel(manual.target).unary_unary('/test.Echo/Who'); assert c(b'', timeout=20) == b'a'"
    # Python 3.12 and newer warn of every thread, and the timer's is one.
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    done = run(CALL + "channel.close()\n" + FORK.format(child=own, parent="0"), server.address, environment=quiet)
    assert (done.returncode, done.stdout, done.stderr) == (0, "child: fine\nparent: 0\n", "")


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


def test_a_copy_of_the_first_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mark names the process id alone."""
    mark = {"process": os.getpid(), "alone": True, "server_uri": "unix:/one"}
    environment = {bootstrap.TEXT: json.dumps({"grpc_discovery": mark})}
    monkeypatch.setitem(sys.modules, "_grpc_discovery_1", os)
    with pytest.raises(ControlPlaneError, match="another copy of this library"):
        bootstrap.merge(environment, "unix:/two")
    monkeypatch.delitem(sys.modules, "_grpc_discovery_1")  # it was there before an exec
    bootstrap.merge(environment, "unix:/two")
    assert json.loads(environment[bootstrap.TEXT])["xds_servers"][0]["server_uri"] == "unix:/two"


def test_a_process_that_executes_itself_opens_a_channel_again(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A hot restart keeps the process id and the environment; the bootstrap in it is not another copy's. Nothing stays behind."""
    folder = tmp_path_factory.mktemp("e")
    code = PRELUDE + CALL + "print(os.getpid(), flush=True)\n"
    code += "if len(sys.argv) < 3: os.execv(sys.executable, [sys.executable, '-c', os.environ['CODE'], address, 'again'])"
    done = run("exec(os.environ['CODE'])", server.address, environment={"CODE": code, "TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second
    assert list(folder.iterdir()) == []


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


METRICS = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_program_that_uses_opentelemetry_gets_metrics(server: Server, imported: str) -> None:
    """Whether it sets it up before its first channel or after; the change that was sent before is among them."""
    pytest.importorskip("opentelemetry.sdk.metrics", reason="metrics need opentelemetry-sdk: pip install opentelemetry-sdk")
    code = """
manual.set([address, "127.0.0.1:1"])
discovery.wait_until_synced(manual.target, 20)
while discovery.status(manual.target).pushes < 2:
    time.sleep(0.01)
found = {}
while len(found) < 6:
    for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
        found[metric.name] = list(metric.data.data_points)
print(*sorted(found), sum(point.count for point in found["discovery.propagation.duration"]))
"""
    done = run(METRICS + CALL + code if imported == "before" else CALL + METRICS + code, server.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        "discovery.endpoints", "discovery.propagation.duration", "discovery.refusals", "discovery.restarts", "discovery.synced",
        "discovery.updates", "2",
    ]  # fmt: skip


def test_endpoints_that_have_gone_are_counted_as_none(server: Server) -> None:
    """A backend would go on with the last number of what is only missing; nothing is left of a target that is closed."""
    pytest.importorskip("opentelemetry.sdk.metrics", reason="metrics need opentelemetry-sdk: pip install opentelemetry-sdk")
    code = """
def endpoints():
    read = reader.get_metrics_data()
    metrics = read.resource_metrics[0].scope_metrics[0].metrics if read else []
    return [point for metric in metrics if metric.name == "discovery.endpoints" for point in metric.data.data_points]

while [point.value for point in endpoints()] != [1]:
    time.sleep(0.01)
(before,) = endpoints()
manual.set([])
while [point.value for point in endpoints()] != [0]:
    time.sleep(0.01)
print([point.attributes for point in endpoints()] == [before.attributes])
channel.close()
while endpoints():
    time.sleep(0.01)
"""
    done = run(METRICS + CALL + code, server.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_broken_opentelemetry_is_told_once_and_costs_no_channel(server: Server) -> None:
    """Another package may have overwritten a part of its files."""
    code = """
import types
package = types.ModuleType("opentelemetry")
package.metrics = sys.modules["opentelemetry.metrics"] = types.ModuleType("opentelemetry.metrics")
sys.modules["opentelemetry"] = package
"""
    done = run(code + CALL + "discovery.insecure_channel('static:///' + address)", server.address)
    assert done.returncode == 0
    assert done.stderr.count("no metrics: OpenTelemetry cannot be used: AttributeError") == 1


GREENLETS = """
from gevent import monkey; monkey.patch_all({patched})
import faulthandler, sys
faulthandler.dump_traceback_later(20, exit=True)
import gevent, grpc, grpc.experimental.gevent
if {init}:
    grpc.experimental.gevent.init_gevent()
import discovery
one, two = sys.argv[1:]
manual = discovery.Manual("greeter")
manual.set([one])
try:
    channel = discovery.insecure_channel(manual.target)
except discovery.ControlPlaneError as error:
    print(error)
    sys.exit()
call = channel.unary_unary("/test.Echo/Who")
print(call(b"", timeout=10))
manual.set([two])
while call(b"", timeout=10) != b"b":
    pass
print(*(each.value for each in gevent.joinall([gevent.spawn(call, b"", timeout=10) for _ in range(3)])))
channel.close()
with discovery.insecure_channel(manual.target) as channel:
    print(channel.unary_unary("/test.Echo/Who")(b"", timeout=10))
"""


@pytest.mark.parametrize(
    ("patched", "init", "said"),
    [
        ("", True, "b'a'\nb'b' b'b' b'b'\nb'b'\n"),
        ("thread=False, queue=False", False, "b'a'\nb'b' b'b' b'b'\nb'b'\n"),
        ("", False, "init_gevent()"),
        ("queue=False", True, "both on or both off"),
        ("thread=False", False, "both on or both off"),
    ],
)
def test_under_gevent_a_channel_works_or_says_what_to_do(server: Server, patched: str, init: bool, said: str) -> None:
    """Never a process that is frozen past every deadline, as gRPC without its initialization would leave it (grpc/grpc#4629)."""
    pytest.importorskip("gevent", reason="this test needs gevent: pip install gevent")
    other = Server("b")
    try:
        done = subprocess.run(
            [sys.executable, "-c", GREENLETS.format(patched=patched, init=init), server.address, other.address],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=DEADLINE * 3,
        )
    finally:
        other.stop()
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stderr == ""


def test_eventlets_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC has no support for them."""
    patcher = types.SimpleNamespace(is_monkey_patched=lambda module: module == "thread")
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    with pytest.raises(ControlPlaneError, match="thread=False"):
        bootstrap.check_greenlets()


def test_a_working_directory_that_is_gone_does_not_matter(server: Server) -> None:
    """It is looked at only when no other folder can hold the socket."""
    done = run("import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)" + CALL, server.address)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 15)"])
def test_prefork_workers_that_closed_their_channels_leave_nothing(
    server: Server, tmp_path_factory: pytest.TempPathFactory, end: str
) -> None:
    """They end without running exit handlers: multiprocessing's fork, Celery's pool."""
    folder = tmp_path_factory.mktemp("w")
    code = f"""
for _ in range(3):
    child = os.fork()
    if not child:
        channel = discovery.insecure_channel(manual.target)
        assert channel.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
        channel.close()
        {end}
    os.waitpid(child, 0)
"""
    done = run(code, server.address, environment={"TMPDIR": str(folder)})
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("when", ["between channels", "beside an open channel"])
@pytest.mark.parametrize("taken", ["socket", "directory"])
def test_a_socket_that_was_taken_away_is_made_again(server: Server, when: str, taken: str) -> None:
    """By whoever cleans /tmp: the next channel works, and the one that is open goes on and follows."""
    code = f"""
import shutil
place = discovery.xds.runtime.process.plane().server_uri.removeprefix("unix:")
{"channel.close()" if when == "between channels" else "pass"}
if {taken!r} == "socket":
    if os.path.exists(place): os.unlink(place)
else:
    shutil.rmtree(os.path.dirname(place), ignore_errors=True)
other = discovery.insecure_channel("static:///" + address)
assert other.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
assert os.path.exists(place)
if {when!r} == "beside an open channel":
    manual.set(["127.0.0.1:1"])
    try:
        while True: call(b"", timeout=20)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    manual.set([address])
    call(b"", timeout=20, wait_for_ready=True)
"""
    done = run(CALL + code, server.address)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def parent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TMPDIR, with a path short enough for a socket."""
    made = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(made))
    return made


@pytest.fixture
def directory(parent: Path) -> Iterator[SocketDirectory]:
    made = SocketDirectory()
    yield made
    made.remove()


HOLD = """
from discovery.xds.socket_directory import SocketDirectory, sweep
directory = SocketDirectory()
open(directory.socket, "w").close()
print(directory.socket, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(parent: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that lives in a directory of the same parent."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys" + HOLD],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def socket_of(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_the_directory_of_a_killed_process_is_swept_by_the_next(holder: "subprocess.Popen[str]", parent: Path) -> None:
    """SIGKILL runs nothing at exit; the lock that the kernel released says that nobody lives there."""
    left = socket_of(holder)
    holder.kill()
    holder.wait()
    assert left.exists()
    next_one = SocketDirectory()
    assert [str(path) for path in parent.iterdir()] == [os.path.dirname(next_one.socket)]
    next_one.remove()
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("stopped", [False, True])
def test_the_directory_of_a_living_process_is_not_swept(holder: "subprocess.Popen[str]", stopped: bool) -> None:
    """Not even of a frozen one."""
    socket = socket_of(holder)
    if stopped:
        os.kill(holder.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    SocketDirectory().remove()
    assert socket.exists()


def test_a_child_does_not_keep_its_parents_directory(parent: Path) -> None:
    """Neither a forked one nor an executed one: they inherit descriptors, and would hold the lock after the parent's end."""
    code = HOLD.replace("sys.stdin.read()", "") + (
        "import subprocess\n"
        "subprocess.Popen(['cat'], stdin=int(sys.argv[1]), close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "if not os.fork():\n    directory.remove(); os.close(1); os.close(2); os.read(int(sys.argv[1]), 1); os._exit(0)\n"
        "os.kill(os.getpid(), 9)"
    )
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import os, sys" + code, str(reader)],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(reader,),
            timeout=DEADLINE,
        )
        left = Path(done.stdout.strip())
        assert left.exists()  # a child's `remove` does nothing
        SocketDirectory().remove()
        assert not left.exists()
    finally:
        os.close(writer)
        os.close(reader)


def test_what_is_not_this_users_directory_is_not_swept(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, files, directories without a lock that are not empty or young, and those of other users."""
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (parent / "grpc-discovery-link").symlink_to(elsewhere)
    (parent / "grpc-discovery-file").touch()
    (parent / "grpc-discovery-young").mkdir()
    for name in ("old", "foreign", "lock-is-a-link", "filled"):
        (parent / f"grpc-discovery-{name}").mkdir()
    (parent / "grpc-discovery-lock-is-a-link" / "lock").symlink_to(elsewhere / "lock")
    (parent / "grpc-discovery-filled" / "ads").touch()
    for name in ("old", "filled"):
        os.utime(parent / f"grpc-discovery-{name}", (0, 0))
    (parent / "grpc-discovery-foreign" / "lock").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    socket_directory.sweep(str(parent))
    assert (parent / "grpc-discovery-foreign" / "lock").exists()
    assert (parent / "grpc-discovery-old").exists()
    monkeypatch.undo()
    socket_directory.sweep(str(parent))
    assert {path.name for path in parent.iterdir()} == {
        "elsewhere", "grpc-discovery-link", "grpc-discovery-file", "grpc-discovery-young", "grpc-discovery-lock-is-a-link", "grpc-discovery-filled",
    }  # fmt: skip
    assert (elsewhere / "lock").exists()


@pytest.mark.parametrize("gone", ["directory", "lock", "nothing"])
def test_a_directory_is_made_again_at_the_same_path(directory: SocketDirectory, gone: str) -> None:
    """After the last channel was closed, or after somebody cleaned up; a sweep leaves it alone again."""
    path = Path(directory.socket).parent
    if gone == "directory":
        directory.remove()
        assert not path.exists()
    elif gone == "lock":
        (path / "lock").unlink()
    directory.create()
    assert path.stat().st_mode & 0o777 == 0o700
    assert not directory.exists
    Path(directory.socket).touch()
    assert directory.exists
    SocketDirectory().remove()
    assert directory.exists


@pytest.mark.parametrize("taken", ["link", "file", "open to others", "another user"])
def test_a_path_that_somebody_else_has_taken_is_refused(
    directory: SocketDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    """They would hold the control plane that this process's calls follow."""
    path = Path(directory.socket).parent
    directory.remove()
    if taken == "link":
        path.symlink_to(tmp_path)
    elif taken == "file":
        path.touch(mode=0o600)
    else:
        path.mkdir(mode=0o777 if taken == "open to others" else 0o700)
    if taken == "open to others":
        path.chmod(0o777)
    if taken == "another user":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ControlPlaneError, match="taken by another user"):
        directory.create()


def test_a_directory_that_a_sweep_took_while_it_was_made_is_made_again(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its creation and its lock a directory looks like one that was left."""
    real = os.open
    taken: list[str] = []

    def swept_before(path: str, *args: int, **kwargs: int) -> int:
        if not taken:
            taken.append(path)
            os.rmdir(os.path.dirname(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swept_before)
    directory = SocketDirectory()
    assert os.path.isdir(os.path.dirname(directory.socket))
    assert not directory.socket.startswith(os.path.dirname(taken[0]))
    directory.remove()


def test_the_next_parent_is_taken_if_one_cannot_be_used(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, too long for a socket, or with a character that means something else in an address of gRPC."""
    names = ("long" * 20, "a#b", "a%41b", "a,b", "a?b")
    for name in names:
        (parent / name).mkdir()
    for name in ("missing", *names):
        monkeypatch.setenv("TMPDIR", str(parent / name))
        directory = SocketDirectory()
        assert directory.socket.startswith("/tmp/grpc-discovery-")
        directory.remove()


def test_a_relative_folder_is_found_after_the_working_directory_has_changed(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """gRPC connects to the socket later."""
    folder = tmp_path_factory.mktemp("r")
    done = run(
        f"os.chdir({str(folder)!r}); plane = discovery.xds.runtime.process.plane(); os.chdir('/')" + CALL,
        server.address,
        environment={"TMPDIR": "."},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directory_that_cannot_be_locked_does_not_stay(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: the start fails, and leaves nothing."""

    def refuse(path: str, *args: int, **kwargs: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files", path)

    before = set(Path("/tmp").glob("grpc-discovery-*"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(ControlPlaneError, match="Too many open files"):
            SocketDirectory()
    assert list(parent.iterdir()) == []
    assert set(Path("/tmp").glob("grpc-discovery-*")) <= before


def test_no_parent_at_all_is_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the remedy; a working directory that is gone is one of them."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ControlPlaneError, match=rf"/tmp \(denied\), .*{re.escape(os.getcwd())} \(denied\); set TMPDIR"):
        SocketDirectory()
    monkeypatch.setattr(os, "getcwd", refuse)
    with pytest.raises(ControlPlaneError, match=r"/tmp \(denied\), /dev/shm \(denied\), /var/tmp \(denied\); set TMPDIR"):
        SocketDirectory()


def test_a_sweep_leaves_a_directory_that_was_made_again_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock that it has is that of a file which is gone; another process sweeps while this one closes and opens a channel."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    directory = SocketDirectory()
    flock = fcntl.flock

    def later(lock: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB:
            monkeypatch.setattr(fcntl, "flock", flock)
            directory.remove()
            directory.create()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", later)
    sweep(str(tmp_path))
    assert os.path.isdir(os.path.dirname(directory.socket))
    directory.remove()


def test_an_open_channel_finds_a_socket_that_was_removed_when_it_connects_anew(server: Server) -> None:
    """Its stream to the control plane has ended, and somebody has cleaned up /tmp: changes reach it all the same."""
    code = """
import shutil
from discovery.xds.runtime import process
plane = process.plane()
other = sys.argv[2]
shutil.rmtree(os.path.dirname(plane.server_uri.removeprefix("unix:")))
plane._servers[-1].stop(None)
manual.set([other])
give_up = time.monotonic() + 20
while call(b"", timeout=20) != b"b":
    assert time.monotonic() < give_up, "the change did not arrive"
"""
    with servers("b") as running:
        done = run(CALL + code, server.address, running["b"].address)
    assert done.returncode == 0, done.stderr
