"""health.py on real servers that offer grpc.health.v1, or do not."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from discovery import Config, Health, Manual, insecure_channel, secure_channel, status
from discovery.config import Backoff
from discovery.resolving.health import HealthMonitor
from discovery.snapshot import Endpoint, Snapshot, parse_authority
from discovery.testing import WHO
from discovery.wire import aio_thread
from discovery.wire import messages_pb2 as wire

from .fakes import Clock
from .servers import DEADLINE, servers, share, unary, until

ROOT = str(Path(__file__).parents[2])

NAMES = {
    "serving": wire.SERVING_STATUS_SERVING,
    "not": wire.SERVING_STATUS_NOT_SERVING,
    "unknown": wire.SERVING_STATUS_SERVICE_UNKNOWN,
}


class Server:
    """A server whose health a test decides; answers calls with its name as the others do."""

    def __init__(self, name: str, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        self.name = name
        self.asked: list[str] = []
        self._changed = threading.Condition()
        self._said = "serving"
        self._generation = 0
        self._server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch, wire.HealthCheckRequest.FromString, wire.HealthCheckResponse.SerializeToString
        )
        who: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: self.name.encode())
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": watch}),
                grpc.method_handlers_generic_handler("test.Echo", {"Who": who}),
            )
        )
        port = self._server.add_secure_port(address, credentials) if credentials else self._server.add_insecure_port(address)
        self.address = f"{address.rpartition(':')[0]}:{port}"
        self._server.start()

    def say(self, status: str) -> None:
        with self._changed:
            self._said = status
            self._changed.notify_all()

    def end_streams(self) -> None:
        """As a server does whose connections are old."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def _watch(self, request: wire.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[wire.HealthCheckResponse]:
        told, generation = "", self._generation
        self.asked.append(request.service)
        context.add_callback(lambda: self.say(self._said))
        while context.is_active():
            with self._changed:
                self._changed.wait_for(lambda: self._said != told or self._generation > generation or not context.is_active())  # noqa: B023
                told = self._said
            if self._generation > generation:
                return
            yield wire.HealthCheckResponse(status=NAMES[told])

    def stop(self) -> None:
        self._server.stop(None).wait(DEADLINE)


class Run:
    """A monitor over some endpoints. `waits` are the bounds of the waits that it made; it does not make them in fact."""

    def __init__(self, *addresses: str, service: str = "", backoff: Backoff | None = None, clock: Clock | None = None) -> None:
        self.snapshot = Snapshot.of([Endpoint(*parse_authority(address)) for address in addresses])
        self.waits: list[float] = []
        self.seen: list[list[str]] = []
        self.monitor = HealthMonitor(
            service, backoff or Backoff(0.01, 0.1), None, "test", clock=clock or Clock(), jitter=self._jitter
        )
        self.changed = threading.Condition()
        self.monitor.start(self._notify)
        self.monitor.update(self.snapshot)

    def _jitter(self, low: float, high: float) -> float:
        self.waits.append(high)
        return low

    def _notify(self) -> None:
        with self.changed:
            self.seen.append(self.health())
            self.changed.notify_all()

    def health(self) -> list[str]:
        return sorted(endpoint.health.name for endpoint in self.monitor.apply(self.snapshot).endpoints)

    def wait_for(self, *expected: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.health() == sorted(expected), DEADLINE), self.health()


@pytest.fixture(autouse=True)
def no_watch_is_left() -> Iterator[None]:
    """Every watch ends with its monitor, when `close` returns."""
    yield
    assert not list(_watches())


def _watches() -> Iterator[asyncio.Task[None]]:
    """The running watches of this process."""
    loop = aio_thread._threads[-1]._loop
    if loop is not None:
        yield from (task for task in asyncio.all_tasks(loop) if "_watch" in repr(task.get_coro()))


def test_what_a_server_says_is_what_its_endpoint_is() -> None:
    """From unknown to healthy, to unhealthy, and back, without being asked again."""
    server = Server("a")
    run = Run(server.address, service="my.Service")
    try:
        run.wait_for("HEALTHY")
        for said, known in (("not", "UNHEALTHY"), ("serving", "HEALTHY"), ("unknown", "UNHEALTHY")):
            server.say(said)
            run.wait_for(known)
        assert server.asked == ["my.Service"]
    finally:
        run.monitor.close()
        server.stop()


def test_a_server_without_a_health_service_and_one_that_is_not_there_are_unknown() -> None:
    """Unknown gets calls: whether a server can be reached is the balancer's matter."""
    with servers("plain") as running:
        run = Run(running["plain"].address, "127.0.0.1:1")
        until(lambda: sum(1 for _ in _watches()) == 1)  # the first asks no more
        assert run.health() == ["UNKNOWN", "UNKNOWN"]
        run.monitor.close()


def test_a_server_that_dies_is_unknown_until_it_is_back() -> None:
    """What it said before does not outlive it; the stream is begun anew."""
    server = Server("a")
    run = Run(server.address)
    server.say("not")
    run.wait_for("UNHEALTHY")
    server.stop()
    run.wait_for("UNKNOWN")
    again = Server("a", server.address)
    try:
        run.wait_for("HEALTHY")
    finally:
        run.monitor.close()
        again.stop()


def test_a_stream_that_ends_is_begun_anew_and_what_was_said_stays_meanwhile() -> None:
    """Servers close connections for their age alone: that is no news of their health."""
    server = Server("a")
    server.say("not")
    run = Run(server.address)
    try:
        run.wait_for("UNHEALTHY")
        for count in (2, 3, 4):
            server.end_streams()
            until(lambda count=count: len(server.asked) == count)  # type: ignore[misc]
        server.say("serving")
        run.wait_for("HEALTHY")
        assert run.seen == [["UNHEALTHY"], ["HEALTHY"]]
    finally:
        run.monitor.close()
        server.stop()


def test_a_server_that_ends_every_stream_is_asked_less_and_less_often() -> None:
    """Whatever it answers before; only a stream that lived for long takes the waits back to the shortest."""
    server, clock = Server("a"), Clock()
    run = Run(server.address, backoff=Backoff(1, 8), clock=clock)
    try:
        for count in range(1, 7):
            until(lambda count=count: len(server.asked) == count)  # type: ignore[misc]
            if count == 6:
                clock.now += 8
            server.end_streams()
        until(lambda: len(run.waits) == 6)
        assert run.waits == [1, 2, 4, 8, 8, 1]
    finally:
        run.monitor.close()
        server.stop()


def test_a_server_without_a_health_service_is_asked_once_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection stays open for nothing."""
    opened: list[weakref.ref[grpc.aio.Channel]] = []
    own_channel = aio_thread.own_channel

    def recorded(*args: Any) -> grpc.aio.Channel:
        channel = own_channel(*args)
        opened.append(weakref.ref(channel))
        return channel

    monkeypatch.setattr(aio_thread, "own_channel", recorded)
    with servers("plain") as running:
        run = Run(running["plain"].address)
        until(lambda: bool(opened) and not list(_watches()))
        until(lambda: opened[0]() is None)  # without a reference, gRPC has closed it
        run.monitor.close()
        assert (run.health(), run.waits) == (["UNKNOWN"], [])


def test_an_ipv6_endpoint_is_asked_too() -> None:
    """Brackets and all."""
    server = Server("a", "[::1]:0")
    run = Run(server.address)
    try:
        run.wait_for("HEALTHY")
    finally:
        run.monitor.close()
        server.stop()


@pytest.mark.parametrize("trusted", [True, False])
def test_under_tls_the_question_is_asked_as_the_calls_are(trusted: bool) -> None:
    """The same credentials, and the target's name in the certificate; what cannot be asked stays unknown."""
    trustme = pytest.importorskip("trustme", reason="the TLS tests need trustme: pip install trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("greeter.test")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    server = Server("a", credentials=grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)]))
    server.say("not")
    roots = (authority if trusted else trustme.CA()).cert_pem.bytes()
    target = f"static:///{server.address}"
    try:
        with secure_channel(target, grpc.ssl_channel_credentials(roots), [("grpc.default_authority", "greeter.test")]) as channel:
            if trusted:
                until(lambda: status(target).by_health() == {Health.UNHEALTHY: 1})
            with pytest.raises(grpc.RpcError) as error:
                unary(channel)(b"", timeout=DEADLINE)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert status(target).by_health() == {Health.UNHEALTHY if trusted else Health.UNKNOWN: 1}
    finally:
        server.stop()


def test_an_exit_while_servers_are_asked_is_quiet() -> None:
    """Ten times, in the middle of calls and changes of health."""
    one, two = Server("a"), Server("b")
    code = f"""
import sys, threading
import discovery
target = sys.argv[1]
channel = discovery.insecure_channel(target)
call = channel.unary_unary("{WHO}")
assert call(b"", timeout=20) in (b"a", b"b")
asked = threading.Event()
def traffic():
    while True:
        call(b"", timeout=20)
        if discovery.Health.HEALTHY in discovery.status(target).by_health():
            asked.set()
for _ in range(2):
    threading.Thread(target=traffic, daemon=True).start()
assert asked.wait(20)
sys.exit(3)
"""
    stop = threading.Event()

    def flap() -> None:
        while not stop.wait(0.005):
            for said in ("not", "serving"):
                one.say(said)

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        for _ in range(10):
            done = subprocess.run(
                [sys.executable, "-c", code, f"static:///{one.address},{two.address}"],
                env={**os.environ, "PYTHONPATH": ROOT},
                capture_output=True,
                text=True,
                timeout=DEADLINE * 2,
            )
            assert (done.returncode, done.stderr) == (3, "")
    finally:
        stop.set()
        flapping.join()
        one.stop()
        two.stop()


def test_endpoints_that_left_are_not_asked_any_more() -> None:
    """And those that came are."""
    one, two = Server("a"), Server("b")
    run = Run(one.address)
    try:
        run.wait_for("HEALTHY")
        (left,) = _watches()
        run.snapshot = Snapshot.of([Endpoint(*parse_authority(two.address))])
        run.monitor.update(run.snapshot)
        run.wait_for("HEALTHY")
        until(left.done)
        assert len(two.asked) == 1
    finally:
        run.monitor.close()
        one.stop()
        two.stop()


def test_a_large_set_is_asked_as_a_whole_by_one_thread() -> None:
    """A thousand endpoints on one server take a thousand connections, and no thread more than one endpoint does."""
    server = Server("a")
    port = server.address.rpartition(":")[2]
    run = Run(server.address)
    try:
        run.wait_for("HEALTHY")
        threads = threading.active_count()
        run.snapshot = Snapshot.of([Endpoint(f"127.1.{number // 250}.{number % 250 + 1}", int(port)) for number in range(400)])
        run.monitor.update(run.snapshot)
        until(lambda: sum(1 for _ in _watches()) == 400)
        assert threading.active_count() <= threads
    finally:
        run.monitor.close()
        server.stop()


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a limit of processes; nothing is raised to whoever brings the set."""
    start = threading.Thread.start
    refused: list[str] = []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == "discovery aio" and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    server = Server("a")
    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    monkeypatch.setattr(aio_thread, "_threads", [*aio_thread._threads, aio_thread._Thread()])
    run = Run(server.address)
    try:
        assert refused
        run.wait_for("HEALTHY")
    finally:
        run.monitor.close()
        server.stop()


def test_a_subscriber_that_raises_is_logged_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    """The watches of all targets share a thread, which no one of them may end."""
    server = Server("a")
    run = Run(server.address)
    called = threading.Event()

    def fail() -> None:
        called.set()
        raise ValueError("a bug of the subscriber's")

    run.monitor.start(fail)
    try:
        for said, known in (("not", "UNHEALTHY"), ("serving", "HEALTHY")):
            until(lambda: list(_watches()) != [])
            called.clear()
            server.say(said)
            until(lambda known=known: run.health() == [known])  # type: ignore[misc]
            assert called.wait(DEADLINE)
        until(lambda: "a bug of the subscriber's" in caplog.text)
    finally:
        run.monitor.close()
        server.stop()


def _run(code: str, *arguments: str) -> str:
    """A program that must end well; what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=DEADLINE * 3,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_process_may_fork_once_its_monitors_are_closed() -> None:
    """gRPC's own threads for grpc.aio are gone then: it would say that it skips what a child needs. The child's watches start anew."""
    server = Server("a")
    code = """
import os, sys, threading
import grpc
from discovery.config import Backoff
from discovery.resolving.health import HealthMonitor
from discovery.snapshot import Endpoint, Snapshot, parse_authority
kept = grpc.insecure_channel(sys.argv[1])  # without any, gRPC shuts down, and a fork meanwhile finds its lock held
snapshot = Snapshot.of([Endpoint(*parse_authority(sys.argv[1]))])
def ask():
    monitor, known = HealthMonitor("", Backoff(), None, "test"), threading.Event()
    monitor.start(known.set)
    monitor.update(snapshot)
    assert known.wait(20)
    monitor.close()
ask()
if not (child := os.fork()):
    ask()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ask()
"""
    try:
        assert _run(code, server.address) == ""
    finally:
        server.stop()


def test_the_programs_own_event_loops_are_not_disturbed() -> None:
    """gRPC wakes all loops of a process by one socket: five loops one after another, beside watches, in one process."""
    server = Server("a")
    code = f"""
import asyncio, sys
import discovery, grpc
target, address = sys.argv[1:]
channel = discovery.insecure_channel(target)
assert channel.unary_unary("{WHO}")(b"", timeout=20) == b"a"
async def main():
    async with grpc.aio.insecure_channel(address) as own:
        for _ in range(50):
            assert await own.unary_unary("{WHO}")(b"", timeout=20) == b"a"
for _ in range(5):
    asyncio.run(main())
assert discovery.status(target).by_health() == {{discovery.Health.HEALTHY: 1}}
"""
    try:
        assert _run(code, f"static:///{server.address}", server.address) == ""
    finally:
        server.stop()


def test_a_socket_that_is_closed_while_the_loop_leaves_it_alone_is_no_error() -> None:
    """gRPC closes the socket by which it wakes event loops once no loop uses grpc.aio."""
    loop, problems = aio_thread._Loop(), list[str]()
    loop.set_exception_handler(lambda _, context: problems.append(context["message"]))
    ours, theirs = socket.socketpair()

    async def paused() -> None:
        over = loop.create_future()
        loop.call_later(loop.PAUSE, over.set_result, None)
        await over

    async def closed_meanwhile() -> None:
        loop.add_reader(ours, ours.recv, 1)
        theirs.send(b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # this loop has seen it, and looks again after its pause
        ours.recv(1)  # another loop reads it
        await paused()
        loop.remove_reader(ours)
        ours.close()
        await paused()

    loop.run_until_complete(closed_meanwhile())
    loop.close()
    theirs.close()
    assert problems == []


def test_under_gevent_health_is_not_asked_and_the_status_says_so() -> None:
    """grpc.aio's thread would be a greenlet that never yields."""
    pytest.importorskip("gevent")
    code = """
from gevent import monkey
monkey.patch_all()
from discovery.config import Backoff
from discovery.resolving.health import HealthMonitor
from discovery.snapshot import Endpoint, Snapshot
monitor = HealthMonitor("", Backoff(), None, "test")
monitor.update(Snapshot.of([Endpoint("127.0.0.1", 1)]))
assert "gevent" in monitor.apply(Snapshot.of([Endpoint("127.0.0.1", 1)])).problems[0]
monitor.close()
"""
    assert _run(code) == ""


def test_a_server_that_says_it_is_not_serving_gets_no_new_calls() -> None:
    """Through the whole path, on a target whose registry knows nothing of health; without the monitor it would."""
    one, two = Server("a"), Server("b")
    target = f"static:///{one.address},{two.address}"
    try:
        with insecure_channel(target) as channel:
            until(lambda: set(share(channel, 10)) == {"a", "b"})
            until(lambda: status(target).by_health() == {Health.HEALTHY: 2})
            one.say("not")
            until(lambda: status(target).by_health() == {Health.HEALTHY: 1, Health.UNHEALTHY: 1})
            until(lambda: set(share(channel, 10)) == {"b"})
            one.say("serving")
            until(lambda: set(share(channel, 10)) == {"a", "b"})
        one.say("not")
        with insecure_channel(target, config=Config(health=None)) as channel:
            until(lambda: set(share(channel, 10)) == {"a", "b"})
    finally:
        one.stop()
        two.stop()


def test_the_service_config_may_name_the_service_whose_health_counts() -> None:
    """healthCheckConfig keeps its meaning when only the target changes."""
    server = Server("a")
    try:
        options = [("grpc.service_config", '{"healthCheckConfig": {"serviceName": "mine"}}')]
        with insecure_channel(f"static:///{server.address}", options) as channel:
            assert unary(channel)(b"", timeout=DEADLINE) == b"a"
            until(lambda: server.asked == ["mine"])
    finally:
        server.stop()


def test_a_registry_that_knows_health_is_believed_without_asking() -> None:
    """No connection is made to the servers beside gRPC's own."""
    server = Server("a")
    manual = Manual("test-believed")
    try:
        with insecure_channel(manual.target) as channel:
            manual.set([server.address])
            assert set(share(channel, 5)) == {"a"}
        assert server.asked == []
    finally:
        server.stop()
