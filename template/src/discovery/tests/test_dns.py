"""sources/dns.py on a real DNS server."""

import queue
import threading
from collections.abc import Iterator

import pytest

from .. import Config, Dns, Empty, SourceError, TargetError, insecure_channel, status
from ..resolver import Resolver
from ..snapshot import Endpoint, Snapshot
from ..source import open_source
from ..target import parse
from .servers import DEADLINE, Server, share, until

pytest.importorskip("dns", reason="sources/dns.py needs dnspython: pip install dnspython")
pytest.importorskip("dnslib", reason="the DNS tests need dnslib: pip install dnslib")

from . import dns_server

NAME = "pods.test."


@pytest.fixture
def server() -> Iterator[dns_server.Server]:
    made = dns_server.Server()
    yield made
    made.close()


def config(server: dns_server.Server, **kwargs: float) -> Config:
    return Config(
        coalesce=0,
        health=None,
        dns=Dns(servers=(server.address,), refresh=kwargs.get("refresh", 0.05), timeout=kwargs.get("timeout", 1.0)),
    )


def first(server: dns_server.Server, target: str) -> Snapshot:
    """What the first look-up says."""
    source = open_source(parse(target), config(server))
    return next(source.watch())


def found(snapshot: Snapshot) -> set[tuple[str, int]]:
    return {endpoint[:2] for endpoint in snapshot.endpoints}


def test_a_and_aaaa_records_are_endpoints_with_the_targets_port(server: dns_server.Server) -> None:
    """Both families count."""
    server.zone.set(NAME, "A 127.0.0.1", "A 127.0.0.2", "AAAA ::1")
    assert found(first(server, f"dns-poll:///{NAME}:80")) == {("127.0.0.1", 80), ("127.0.0.2", 80), ("::1", 80)}


def test_srv_records_name_ports_and_weights_and_only_the_first_priority_counts(server: dns_server.Server) -> None:
    """Asked where the target has no port."""
    server.zone.set(NAME, "SRV 10 5 81 one.test.", "SRV 10 0 82 two.test.", "SRV 20 1 83 one.test.")
    server.zone.set("one.test.", "A 127.0.0.1")
    server.zone.set("two.test.", "A 127.0.0.2", "AAAA ::2")
    assert first(server, f"dns-poll:///{NAME}").endpoints == {
        Endpoint("127.0.0.1", 81, weight=5, name="one.test"),
        Endpoint("127.0.0.2", 82, weight=1, name="two.test"),
        Endpoint("::2", 82, weight=1, name="two.test"),
    }


@pytest.mark.parametrize(("target", "expected"), [("127.0.0.9:80", ("127.0.0.9", 80)), ("[::9]:80", ("::9", 80))])
def test_ip_literals_are_their_own_answer(server: dns_server.Server, target: str, expected: tuple[str, int]) -> None:
    """No server is asked."""
    assert found(first(server, f"dns-poll:///{target}")) == {expected}
    assert server.zone.asked == 0


def test_an_answer_too_large_for_udp_is_read_by_tcp(server: dns_server.Server) -> None:
    """A headless Service of 200 pods does not fit a datagram."""
    server.zone.set(NAME, *(f"A 127.0.1.{number}" for number in range(1, 201)))
    assert len(first(server, f"dns-poll:///{NAME}:80")) == 200


def test_an_unknown_name_and_one_without_records_are_empty_sets(server: dns_server.Server) -> None:
    """Whether that is believed is the guard's decision."""
    assert found(first(server, "dns-poll:///unknown.test.:80")) == set()
    server.zone.set(NAME, "TXT hello")
    assert found(first(server, f"dns-poll:///{NAME}:80")) == set()


@pytest.mark.parametrize("family", ["A", "AAAA", "*"])
@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED"])
def test_a_failed_question_is_an_error_even_if_the_other_family_answers(
    server: dns_server.Server, family: str, code: str
) -> None:
    """Half an answer would take away endpoints that live."""
    server.zone.set(NAME, "A 127.0.0.1", "AAAA ::1")
    server.zone.rcode[family] = code
    with pytest.raises(SourceError, match=rf"records of '{NAME}' cannot be read from DNS \(.*127.0.0.1.*: {code}"):
        first(server, f"dns-poll:///{NAME}:80")


def test_a_silent_server_is_an_error_after_the_timeout(server: dns_server.Server) -> None:
    """The sentence says how long it was waited for."""
    server.zone.silent = True
    source = open_source(parse(f"dns-poll:///{NAME}:80"), config(server, timeout=0.2))
    with pytest.raises(SourceError, match="within 0.2 s: no answer in time"):
        next(source.watch())


@pytest.mark.parametrize("text", ["kube-dns", "10.0.0.1:dns", "10.0.0.1:0", ""])
def test_a_server_that_cannot_be_meant_is_refused(text: str) -> None:
    """Before any question."""
    with pytest.raises(TargetError, match="must be an IP address"):
        open_source(parse(f"dns-poll:///{NAME}:80"), Config(dns=Dns(servers=(text,))))


@pytest.mark.parametrize("refresh", [0, -1, 1e9, float("nan")])
def test_a_refresh_that_cannot_be_meant_is_refused(refresh: float) -> None:
    """Zero would ask without a pause."""
    with pytest.raises(TargetError, match="must be between"):
        Dns(refresh=refresh)


class Run:
    """A resolver on the source, and what it passed on."""

    def __init__(self, server: dns_server.Server, settings: Config) -> None:
        target = parse(f"dns-poll:///{NAME}:80")
        self.passed: queue.Queue[Snapshot] = queue.Queue()
        self.resolver = Resolver(target, open_source(target, settings), settings)
        self.resolver.subscribe(self.passed.put)
        self.resolver.start()

    def next(self) -> set[tuple[str, int]]:
        return found(self.passed.get(timeout=DEADLINE))


def asked_again(server: dns_server.Server) -> None:
    """Wait for two more rounds of questions, so that one has begun and ended in between."""
    with server.zone.answered:
        goal = server.zone.asked + 6
        assert server.zone.answered.wait_for(lambda: server.zone.asked >= goal, DEADLINE)


def test_changes_are_seen_at_the_next_question_and_only_changes_are_passed_on(server: dns_server.Server) -> None:
    """Add, remove, replace; the order of an answer does not count."""
    server.zone.set(NAME, "A 127.0.0.1", "A 127.0.0.2")
    run = Run(server, config(server))
    try:
        assert run.next() == {("127.0.0.1", 80), ("127.0.0.2", 80)}
        server.zone.set(NAME, "A 127.0.0.2", "A 127.0.0.1")
        asked_again(server)
        server.zone.set(NAME, "A 127.0.0.3")
        assert run.next() == {("127.0.0.3", 80)}
    finally:
        run.resolver.close()
    assert run.resolver.join(DEADLINE)


@pytest.mark.parametrize("fault", ["SERVFAIL", "NXDOMAIN", "gone", "silent", "down"])
def test_the_last_set_stays_whatever_happens_to_dns_and_what_changed_is_seen_afterwards(
    server: dns_server.Server, fault: str
) -> None:
    """The default: a name server that was just restarted must not stop all traffic."""
    server.zone.set(NAME, "A 127.0.0.1")
    run = Run(server, config(server, timeout=0.2))
    back = server
    try:
        assert run.next() == {("127.0.0.1", 80)}
        if fault == "down":
            server.close()
        elif fault == "silent":
            server.zone.silent = True
        elif fault == "gone":
            server.zone.set(NAME)
        else:
            server.zone.rcode["*"] = fault
        until(lambda: bool(run.resolver.status.last_error or run.resolver.status.suspicious))
        assert run.passed.empty()
        if fault == "down":
            back = dns_server.Server(server.port)
        back.zone.rcode.clear()
        back.zone.silent = False
        back.zone.set(NAME, "A 127.0.0.2")
        assert run.next() == {("127.0.0.2", 80)}
        until(lambda: run.resolver.status.state == "synced" and run.resolver.status.last_error is None)
    finally:
        run.resolver.close()
        if back is not server:
            back.close()


def test_an_empty_answer_is_believed_if_the_caller_says_so(server: dns_server.Server) -> None:
    """Policy fail."""
    server.zone.set(NAME, "A 127.0.0.1")
    settings = config(server)
    run = Run(server, Config(coalesce=0, health=None, dns=settings.dns, empty=Empty("fail")))
    try:
        assert run.next() == {("127.0.0.1", 80)}
        server.zone.set(NAME)
        assert run.next() == set()
    finally:
        run.resolver.close()


def test_a_close_ends_the_wait_for_the_next_question(server: dns_server.Server) -> None:
    """A refresh of an hour does not hold a thread for an hour."""
    server.zone.set(NAME, "A 127.0.0.1")
    source = open_source(parse(f"dns-poll:///{NAME}:80"), config(server, refresh=3600))
    watch = source.watch()
    next(watch)
    thread = threading.Thread(target=lambda: list(watch), daemon=True)
    thread.start()
    source.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_traffic_goes_where_dns_says(server: dns_server.Server) -> None:
    """From the record to the call, through gRPC's own balancer: servers on several loopback addresses, one port."""
    a = Server("a", "127.0.0.1:0")
    b = Server("b", f"127.0.0.2:{a.port}")
    c = Server("c", f"127.0.0.3:{a.port}")
    try:
        server.zone.set(NAME, "A 127.0.0.1", "A 127.0.0.2")
        target = f"dns-poll:///{NAME}:{a.port}"
        with insecure_channel(target, config=config(server)) as channel:
            assert set(share(channel, 20)) == {"a", "b"}
            server.zone.set(NAME, "A 127.0.0.2", "A 127.0.0.3")
            until(lambda: set(share(channel, 20)) == {"b", "c"})
            assert status(target).nacks == 0
    finally:
        for made in (a, b, c):
            made.stop()
