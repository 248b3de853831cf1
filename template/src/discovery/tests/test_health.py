"""health.py on real servers that offer grpc.health.v1, or do not."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from .. import Config, Health, Manual, insecure_channel, status
from ..config import Backoff
from ..health import LIMIT, HealthMonitor
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..wire import health_pb2 as wire
from .servers import DEADLINE, servers, share, unary, until

NAMES = {
    "serving": wire.SERVING_STATUS_SERVING,
    "not": wire.SERVING_STATUS_NOT_SERVING,
    "unknown": wire.SERVING_STATUS_SERVICE_UNKNOWN,
}


class Server:
    """A server whose health a test decides; answers calls with its name as the others do."""

    def __init__(self, name: str, address: str = "127.0.0.1:0") -> None:
        self.name = name
        self.asked: list[str] = []
        self._changed = threading.Condition()
        self._said = "serving"
        self._stopped = False
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
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        self._server.start()

    def say(self, status: str) -> None:
        with self._changed:
            self._said = status
            self._changed.notify_all()

    def _watch(self, request: wire.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[wire.HealthCheckResponse]:
        self.asked.append(request.service)
        told = ""
        context.add_callback(lambda: self.say(self._said))
        while context.is_active():
            with self._changed:
                self._changed.wait_for(lambda: self._said != told or self._stopped or not context.is_active())  # noqa: B023
                told = self._said
            if self._stopped:
                return
            yield wire.HealthCheckResponse(status=NAMES[told])

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.stop(None).wait(DEADLINE)


class Run:
    """A monitor over some endpoints."""

    def __init__(self, *addresses: str, service: str = "") -> None:
        self.snapshot = Snapshot.of([Endpoint(*parse_authority(address)) for address in addresses])
        self.monitor = HealthMonitor(service, Backoff(0.01, 0.1), None, "test")
        self.changed = threading.Condition()
        self.monitor.start(self._notify)
        self.monitor.update(self.snapshot)

    def _notify(self) -> None:
        with self.changed:
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
