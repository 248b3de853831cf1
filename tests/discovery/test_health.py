"""health.py on real servers that offer grpc.health.v1, or do not."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import Config, Health, Manual, insecure_channel, secure_channel, status
from discovery.config import Backoff
from discovery.resolving.health import LIMIT, HealthMonitor
from discovery.snapshot import Endpoint, Snapshot, parse_authority
from discovery.testing import WHO
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
def no_thread_is_left() -> Iterator[None]:
    """Every watch ends with its monitor."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("discovery health"):
            thread.join(DEADLINE)
            assert not thread.is_alive()


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
        until(lambda: sum(watch.thread.is_alive() for watch in run.monitor._watches.values()) == 1)  # the first asks no more
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


def test_a_server_without_a_health_service_is_asked_once_and_left_alone() -> None:
    """No connection stays open for nothing."""
    with servers("plain") as running:
        run = Run(running["plain"].address)
        (watch,) = run.monitor._watches.values()
        watch.thread.join(DEADLINE)
        assert not watch.thread.is_alive()
        with pytest.raises(ValueError, match="closed channel"):
            unary(watch._channel)(b"")
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
        left = next(iter(run.monitor._watches.values())).thread
        run.snapshot = Snapshot.of([Endpoint(*parse_authority(two.address))])
        run.monitor.update(run.snapshot)
        run.wait_for("HEALTHY")
        left.join(DEADLINE)
        assert not left.is_alive()
        assert len(two.asked) == 1
    finally:
        run.monitor.close()
        one.stop()
        two.stop()


def test_a_very_large_set_is_asked_in_part_and_says_so() -> None:
    """Each watch takes threads; the others stay unknown, and get calls."""
    monitor = HealthMonitor("", Backoff(3600, 3600), None, "test")
    snapshot = Snapshot.of([Endpoint(f"127.1.{number // 250}.{number % 250 + 1}", 1) for number in range(LIMIT + 5)])
    monitor.update(snapshot)
    try:
        assert len(monitor._watches) == LIMIT
        assert f"only {LIMIT} of {LIMIT + 5}" in monitor.apply(snapshot).problems[0]
    finally:
        monitor.close()


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
