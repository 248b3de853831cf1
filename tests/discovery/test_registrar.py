"""registrar.py on a real etcd: an entry that stands for as long as its server, whatever happens to etcd."""

import contextlib
import io
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import Backoff, Config, Etcd, Registrar, RegistrationError, insecure_channel
from discovery.registration import registrar
from discovery.sources.etcd import Watch
from discovery.sources.etcd_client import Entry, EtcdClient, EtcdError, prefix_end
from discovery.testing import EtcdServer
from discovery.wire import Stream
from discovery.wire import messages_pb2 as wire

from . import test_etcd
from .etcd_proxy import EtcdProxy
from .servers import DEADLINE, servers, share, until

pytestmark = pytest.mark.etcd
own, server, service, either = test_etcd.own, test_etcd.server, test_etcd.service, test_etcd.either  # the same fixtures

Register = Callable[..., Registrar]
FOREVER = 3600  # a lease that does not end by itself while a test runs


@pytest.fixture
def register() -> Iterator[Register]:
    """All are closed at the end, and their threads end with them, gRPC's as well."""
    before = set(threading.enumerate())
    made: list[Registrar] = []

    def build(etcd: Etcd, service: str, address: str = "10.0.0.1:1", ttl: int = FOREVER, **others: Any) -> Registrar:
        config = Config(etcd=etcd, backoff=Backoff(0.01, 0.1))
        made.append(Registrar(f"etcd:///{service}", address, ttl=ttl, config=config, **others))
        made[-1].start()
        return made[-1]

    yield build
    for each in made:
        each.close()
    streams = [thread for thread in set(threading.enumerate()) - before if "consume_request" in thread.name]
    for thread in streams + [thread for thread in threading.enumerate() if thread.name.startswith("discovery registrar")]:
        thread.join(DEADLINE)
        assert not thread.is_alive(), thread.name


@contextlib.contextmanager
def log(etcd: Etcd, service: str) -> Iterator[Callable[[], str]]:
    """Tells each change below a name from now on, as a third party sees it: the address written, or that a key is gone."""
    prefix = f"{service}/".encode()
    client = EtcdClient(replace(etcd, keepalive=2 * DEADLINE), 0)  # nobody reads between two calls
    client.authenticate()
    watch = Watch(client, prefix, prefix_end(prefix), *client.range(prefix, prefix_end(prefix)))
    deadline = threading.Timer(DEADLINE, client.close)
    deadline.start()
    told = (change.value for changes in watch for change in changes)
    yield lambda: "gone" if (value := next(told)) is None else str(json.loads(value)["Addr"])
    deadline.cancel()
    client.close()


def rest(told: Callable[[], str], server: EtcdServer, service: str) -> list[str]:
    """All changes up to now."""
    server.control("put", f"{service}/end", '{"Addr":"end"}')
    return list(iter(told, "end"))


def listed(server: EtcdServer, service: str) -> dict[str, Entry]:
    """What etcd holds below a name."""
    with server.client() as client:
        prefix = f"{service}/".encode()
        return {entry.key.decode(): entry for entry in client.range(prefix, prefix_end(prefix))[1]}


class Recorder(EtcdClient):
    """The streams of a registrar, and the TTL in each answer about its lease."""

    watches: list[Stream]
    renewals: list[Stream]
    kept: queue.Queue[int]

    def watch(self, *arguments: Any) -> Stream:
        self.watches.append(super().watch(*arguments))
        return self.watches[-1]

    def keep_alive(self, deliver: Callable[[int | EtcdError], None]) -> Stream:
        def kept(answer: int | EtcdError) -> None:
            if isinstance(answer, int):
                self.kept.put(answer)
            deliver(answer)

        self.renewals.append(super().keep_alive(kept))
        return self.renewals[-1]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.watches, Recorder.renewals, Recorder.kept = [], [], queue.Queue()
    monkeypatch.setattr(registrar, "EtcdClient", Recorder)


def test_the_entry_is_what_go_writes_and_ends_at_close(server: EtcdServer, service: str, register: Register) -> None:
    """With zone, weight and fields of one's own; revoked with its lease, which would go on for an hour."""
    made = register(server.settings(), service, "10.0.0.1:50051", id="id")
    made.wait_until_registered(DEADLINE)
    assert (made.registered, made.last_error) == (True, "")
    entry = listed(server, service)[f"{service}/id"]
    assert entry.value == b'{"Op":0,"Addr":"10.0.0.1:50051","Metadata":null}'
    told = register(server.settings(), service, zone="a", weight=7, metadata={"shard": [1]})
    told.wait_until_registered(DEADLINE)
    assert (
        listed(server, service)[f"{service}/10.0.0.1:1"].value
        == b'{"Op":0,"Addr":"10.0.0.1:1","Metadata":{"shard":[1],"zone":"a","weight":7}}'
    )
    assert f"{entry.lease:x}" in server.control("lease", "list")
    made.close()
    made.close()
    assert list(listed(server, service)) == [told.key]
    assert f"{entry.lease:x}" not in server.control("lease", "list")
    assert (made.registered, made.last_error) == (False, "it was taken away")


@pytest.mark.parametrize("harm", ["delete", "revoke"])
def test_an_entry_that_somebody_takes_away_comes_back(
    server: EtcdServer, either: EtcdServer | EtcdProxy, service: str, register: Register, harm: str
) -> None:
    """At once, by the watch, and with a lease that lives."""
    with log(server.settings(), service) as told:
        made = register(either.settings(keepalive=600.0), service)
        made.wait_until_registered(DEADLINE)
        assert told() == "10.0.0.1:1"
        for _ in range(3):
            lease = listed(server, service)[made.key].lease
            server.control(*(("del", made.key) if harm == "delete" else ("lease", "revoke", f"{lease:x}")))
            assert [told(), told()] == ["gone", "10.0.0.1:1"]
        made.wait_until_registered(DEADLINE)
        assert (listed(server, service)[made.key].lease == lease) is (harm == "delete")


@pytest.mark.usefixtures("recorded")
def test_a_quiet_entry_is_kept_beyond_its_lease(
    server: EtcdServer, either: EtcdServer | EtcdProxy, service: str, register: Register
) -> None:
    """On one watch and one lease's stream, never written again: a quiet etcd is not a lost one."""
    with log(server.settings(), service) as told:
        made = register(either.settings(keepalive=0.3, timeout=1.0), service, ttl=1)
        assert all(Recorder.kept.get(timeout=DEADLINE) > 0 for _ in range(9))
        assert (len(Recorder.renewals), len(Recorder.watches), made.registered) == (1, 1, True)
        made.close()
        assert [told(), told()] == ["10.0.0.1:1", "gone"]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("half", ["watch", "lease"])
def test_a_broken_stream_is_begun_anew(server: EtcdServer, service: str, register: Register, half: str) -> None:
    """The watch or the keepalive: neither goes without the other, and nobody sees the entry vanish."""
    with log(server.settings(), service) as told:
        made = register(server.settings(), service, ttl=FOREVER if half == "watch" else 1)
        made.wait_until_registered(DEADLINE)
        for count in (1, 2):
            until(lambda: len(Recorder.renewals) == count)  # noqa: B023
            (Recorder.watches if half == "watch" else Recorder.renewals)[-1].cancel()
        until(lambda: len(Recorder.renewals) == 3)
        made.wait_until_registered(DEADLINE)
        assert rest(told, server, service) == ["10.0.0.1:1"]
        server.control("del", made.key)
        assert [told(), told()] == ["gone", "10.0.0.1:1"]


@pytest.mark.parametrize(("fault", "mend"), [("stop", "start"), ("stop", "wipe"), ("freeze", "thaw")])
def test_an_etcd_that_fails_gets_the_entry_back(
    own: EtcdServer, service: str, register: Register, tmp_path: Path, fault: str, mend: str
) -> None:
    """Twice killed, killed and come back without lease and key, or hanging; in between the entry is called lost."""
    made = register(own.settings(keepalive=0.2, timeout=1.0), service)
    for _ in range(2):
        made.wait_until_registered(DEADLINE)
        getattr(own, fault)()
        until(lambda: not made.registered)
        assert own.address in made.last_error
        if mend == "wipe":
            shutil.rmtree(tmp_path / "etcd")
        getattr(own, mend.replace("wipe", "start"))()
    made.wait_until_registered(DEADLINE)
    assert list(listed(own, service)) == [made.key]


@pytest.mark.parametrize("fault", ["freeze", "stop"])
def test_a_close_ends_although_etcd_does_not_answer(own: EtcdServer, service: str, register: Register, fault: str) -> None:
    """What it could not take away is left to the lease's end."""
    made = register(own.settings(keepalive=0.2, timeout=0.5), service)
    made.wait_until_registered(DEADLINE)
    getattr(own, fault)()
    made.close()
    assert not made.registered


@pytest.mark.parametrize("fault", ["freeze", "stop"])
def test_the_next_member_is_taken(server: EtcdServer, own: EtcdServer, service: str, register: Register, fault: str) -> None:
    """Where the first hangs or is dead."""
    getattr(own, fault)()
    made = register(Etcd((own.address, server.address), timeout=1.0), service)
    made.wait_until_registered(DEADLINE)
    assert list(listed(server, service)) == [made.key]


def test_an_etcd_that_is_not_there_yet_is_waited_for(own: EtcdServer, service: str, register: Register) -> None:
    """Start returns at once; who waits is told why there is no entry, and gets one later."""
    own.stop()
    made = register(own.settings(), service)
    until(lambda: own.address in made.last_error)
    with pytest.raises(RegistrationError, match=f"'{made.key}' is not registered after 0 s: etcd at {own.address}: "):
        made.wait_until_registered(0)
    own.start()
    made.wait_until_registered(DEADLINE)


def test_registrars_of_one_process_know_nothing_of_each_other(server: EtcdServer, service: str, register: Register) -> None:
    """On one service and on another; the end of one is not that of the rest."""
    names = enumerate((f"{service}/x", f"{service}/x", f"{service}/x_other"), 1)
    made = [register(server.settings(), name, f"10.0.0.1:{port}") for port, name in names]
    for each in made:
        each.wait_until_registered(DEADLINE)
    made[0].close()
    assert list(listed(server, service)) == [each.key for each in made if each.registered] == [made[1].key, made[2].key]


def test_the_same_id_is_replaced_without_a_gap(server: EtcdServer, service: str, register: Register) -> None:
    """The first stands back, comes back when the second is gone, and takes nothing along that is not its own."""
    with log(server.settings(), service) as told:
        first = register(server.settings(), service, "10.0.0.1:1", id="pod")
        assert told() == "10.0.0.1:1"
        second = register(server.settings(), service, "10.0.0.1:2", id="pod")
        assert told() == "10.0.0.1:2"
        until(lambda: not first.registered)
        assert first.last_error == "another process has registered under the same id"
        second.close()
        assert [told(), told()] == ["gone", "10.0.0.1:1"]
        first.wait_until_registered(DEADLINE)
        third = register(server.settings(), service, "10.0.0.1:3", id="pod")
        assert told() == "10.0.0.1:3"
        until(lambda: not first.registered)
        first.close()
        assert rest(told, server, service) == []
        third.wait_until_registered(DEADLINE)


def test_a_process_that_stands_still_or_is_killed_vanishes_with_its_lease(server: EtcdServer, service: str) -> None:
    """SIGSTOP lets the lease expire, SIGCONT brings the entry back, SIGKILL ends it."""
    root = str(Path(__file__).parents[2])
    code = """
import sys; from discovery import Config, Etcd, Registrar
Registrar(sys.argv[1], "10.0.0.1:1", ttl=1, config=Config(etcd=Etcd((sys.argv[2],)))).start()
sys.stdin.read()
"""
    with log(server.settings(), service) as told:
        command = [sys.executable, "-c", code, f"etcd:///{service}", server.address]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stdin=subprocess.PIPE)
        try:
            assert told() == "10.0.0.1:1"
            for sign, seen in ((signal.SIGSTOP, "gone"), (signal.SIGCONT, "10.0.0.1:1"), (signal.SIGKILL, "gone")):
                process.send_signal(sign)
                assert told() == seen
        finally:
            process.kill()
            process.communicate()


def test_a_registrar_that_never_began_can_be_closed(server: EtcdServer, service: str) -> None:
    """And writes nothing if it is begun after that."""
    made = Registrar(f"etcd:///{service}", "10.0.0.1:1", config=Config(etcd=server.settings()))
    with pytest.raises(RegistrationError, match="etcd has not answered yet"):
        made.wait_until_registered(0)
    made.close()
    made.start()
    made.close()
    assert listed(server, service) == {}


def test_a_token_that_became_invalid_is_renewed(own: EtcdServer, service: str, register: Register) -> None:
    """The connection stands, its token counts no more, as when it expired; and a user without the right is named."""
    test_etcd.add_users(own, "readwrite", f"{service}/")
    stranger = register(own.settings(user="stranger", password="secret"), service, "10.0.0.1:2")
    until(lambda: "the user 'stranger' may not do this" in stranger.last_error)
    stranger.close()
    with log(own.settings(user="root", password="root"), service) as told:
        made = register(own.settings(user="app", password="secret"), service)
        assert told() == "10.0.0.1:1"
        own.control("--user", "root:root", "auth", "disable")
        own.control("auth", "enable")
        own.control("--user", "root:root", "del", made.key)
        assert [told(), told()] == ["gone", "10.0.0.1:1"]


def test_calls_reach_whoever_is_registered(server: EtcdServer, service: str, register: Register) -> None:
    """From a server that lists itself to a channel that finds it, and no longer once it has taken itself away."""
    with servers("a", "b") as running:
        made = {name: register(server.settings(), service, each.address) for name, each in running.items()}
        made["a"].wait_until_registered(DEADLINE)
        with insecure_channel(f"etcd:///{service}", config=Config(etcd=server.settings())) as channel:
            until(lambda: set(share(channel, 20)) == {"a", "b"})
            made["a"].close()
            until(lambda: set(share(channel, 20)) == {"b"})


def exhausted(monkeypatch: pytest.MonkeyPatch, times: int, *names: str) -> Callable[[], int]:
    """No thread can be started, so many times, that has none of the names; returns how many times are left."""
    left, start = [times], threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if left[0] and not self.name.startswith(names):
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return lambda: left[0]


def test_a_process_that_can_start_no_thread_registers_when_it_can(
    server: EtcdServer, service: str, register: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit of pids: no stream of gRPC can be opened; it is told, and logged once."""
    left = exhausted(monkeypatch, 12, "discovery registrar")
    made = register(server.settings(), service)
    made.wait_until_registered(DEADLINE)
    assert left() == 0
    assert [message for message in caplog.messages if "can't start" in message] == [
        f"registration of '{made.key}': etcd at {server.address}: can't start new thread (Watch)"
    ]


def test_whatever_is_raised_is_told_and_tried_again(
    server: EtcdServer, service: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody expects of a request, before the entry is written and while it is held."""
    failing = threading.Event()
    ask = EtcdClient._ask

    def raising(*arguments: Any, **named: Any) -> Any:
        if failing.is_set():
            raise MemoryError("no memory")
        return ask(*arguments, **named)

    monkeypatch.setattr(EtcdClient, "_ask", raising)
    failing.set()
    made = register(server.settings(keepalive=0.1), service)
    for _ in range(2):
        until(lambda: made.last_error == "MemoryError: no memory")
        failing.clear()
        made.wait_until_registered(DEADLINE)
        failing.set()
    failing.clear()


def test_a_start_that_fails_can_be_repeated(
    server: EtcdServer, service: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing behind, and a registrar that has never started can be closed."""
    exhausted(monkeypatch, 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            register(server.settings(), service)
    made = register(server.settings(), service)
    made.wait_until_registered(DEADLINE)
    made.start()
    assert list(listed(server, service)) == [made.key]


def test_a_log_handler_that_raises_does_not_end_the_registration(own: EtcdServer, service: str, register: Register) -> None:
    """Whatever a program has installed."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    handler = Broken()
    registrar.logger.addHandler(handler)
    try:
        made = register(own.settings(), service)
        for _ in range(2):
            made.wait_until_registered(DEADLINE)
            own.stop()
            until(lambda: not made.registered)
            own.start()
        made.wait_until_registered(DEADLINE)
    finally:
        registrar.logger.removeHandler(handler)


def test_what_etcd_says_cannot_break_a_log_line(register: Register, caplog: pytest.LogCaptureFixture) -> None:
    """An error's text comes from the network: control characters are escaped, in `last_error` too."""

    def refuse(request: wire.RangeRequest, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.INTERNAL, "so\n\x1b[31mred")

    member = grpc.server(ThreadPoolExecutor(2))
    handlers: dict[str, Any] = {"Range": grpc.unary_unary_rpc_method_handler(refuse)}
    member.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("etcdserverpb.KV", handlers)])
    address = f"127.0.0.1:{member.add_insecure_port('127.0.0.1:0')}"
    member.start()
    made = register(Etcd((address,)), "service")
    until(lambda: bool(caplog.messages))
    expected = f"etcd at {address}: so\\n\\x1b[31mred (Range)"
    assert made.last_error == expected
    assert f"registration of '{made.key}': {expected}" in caplog.messages
    member.stop(None).wait(DEADLINE)


def test_a_signal_handler_may_close(
    server: EtcdServer, service: str, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a wait for the same registrar, and while the thread that it interrupts holds a log handler's lock."""
    made = register(server.settings(), service)
    made.wait_until_registered(DEADLINE)
    waiting = register(Etcd(("127.0.0.1:1",)), service)
    until(lambda: "cannot be reached" in waiting.last_error)
    done: list[float] = []

    def close(signum: int, frame: object) -> None:
        for each in (made, waiting, made):
            each.close()
        done.append(len(listed(server, service)))

    before = signal.signal(signal.SIGUSR1, close)
    handler = logging.StreamHandler(io.StringIO())
    registrar.logger.addHandler(handler)
    try:
        sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        assert handler.lock
        with handler.lock:
            sender.start()
            with pytest.raises(RegistrationError, match="it was taken away"):
                waiting.wait_until_registered(DEADLINE)
        sender.join()
    finally:
        registrar.logger.removeHandler(handler)
        signal.signal(signal.SIGUSR1, before)
    assert done == [0]
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == f"discovery registrar {made.key}"])
    assert not [message for message in caplog.messages if "taken away" in message]


def test_a_registrar_does_nothing_in_a_forked_process(server: EtcdServer, service: str) -> None:
    """There it says so and closes at once; in the parent it goes on. One that is started only in the child works."""
    code = """
import os, sys
from discovery import Config, Etcd, Registrar, RegistrationError
config = Config(etcd=Etcd((sys.argv[2],), timeout=30.0))
made = Registrar(sys.argv[1], "10.0.0.1:1", ttl=3600, config=config)
early = os.fork()
if early == 0:
    made = Registrar(sys.argv[1], "10.0.0.1:1", id="child", config=config)
made.start()
made.wait_until_registered(30)
if early == 0:
    made.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(early, 0)[1]) == 7
child = os.fork()
if child == 0:
    assert not made.registered and str(os.getppid()) in made.last_error
    made.start()
    try:
        made.wait_until_registered(30)
    except RegistrationError as error:
        assert "which has forked" in str(error)
    made.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert made.registered
print("still", flush=True)
os._exit(0)
"""
    command = [sys.executable, "-c", code, f"etcd:///{service}", server.address]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert ran.stdout == "still\n", ran.stderr
    assert list(listed(server, service)) == [f"{service}/10.0.0.1:1"]
