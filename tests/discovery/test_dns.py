"""sources/dns.py on a real DNS server."""

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from discovery import Config, Dns, Empty, SourceError, TargetError, insecure_channel, status
from discovery.resolving.resolver import Resolver
from discovery.snapshot import Endpoint, Snapshot
from discovery.sources.source import open_source
from discovery.target import parse

from .fakes import on_sets
from .servers import DEADLINE, Server, share, until

pytest.importorskip("dns", reason="sources/dns.py needs dnspython: pip install dnspython")
pytest.importorskip("dnslib", reason="the DNS tests need dnslib: pip install dnslib")

from discovery.sources import dns_lookup

from . import dns_server

NAME = "pods.test."


@pytest.fixture
def server() -> Iterator[dns_server.Server]:
    made = dns_server.Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look-up waits for both families, however busy the machine is."""
    monkeypatch.setattr(dns_lookup, "GRACE", 60.0)


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
        Endpoint("127.0.0.1", 81, weight=500, name="one.test"),
        Endpoint("127.0.0.2", 82, weight=1, name="two.test"),
        Endpoint("::2", 82, weight=1, name="two.test"),
    }


SRV = ("SRV 1 1 80 one.test.", "SRV 1 1 80 two.test.", "SRV 1 1 81 two.test.")
BOTH = {("127.0.0.1", 80), ("::1", 80), ("127.0.0.2", 80), ("::2", 80), ("127.0.0.2", 81), ("::2", 81)}


@pytest.mark.parametrize(("additional", "questions"), [([], 1 + 2 * 2), (["A", "AAAA"], 1)], ids=["asked for", "sent along"])
def test_the_addresses_of_srv_hosts_are_sent_along_or_asked_for_once_a_host(
    server: dns_server.Server, additional: list[str], questions: int
) -> None:
    """A headless Service of 200 pods must not cost 400 questions more."""
    server.zone.additional = additional
    server.zone.set(NAME, *SRV)
    server.zone.set("one.test.", "A 127.0.0.1", "AAAA ::1")
    server.zone.set("two.test.", "A 127.0.0.2", "AAAA ::2")
    assert found(first(server, f"dns-poll:///{NAME}")) == BOTH
    assert server.zone.asked == questions


def test_an_srv_host_of_which_less_was_sent_along_than_of_others_is_asked_for(server: dns_server.Server) -> None:
    """A server drops what does not fit without a word, and endpoints that live must not vanish with it."""
    server.zone.additional = ["A", "AAAA"]
    server.zone.dropped = {("two.test.", "AAAA")}
    server.zone.set(NAME, *SRV)
    server.zone.set("one.test.", "A 127.0.0.1", "AAAA ::1")
    server.zone.set("two.test.", "A 127.0.0.2", "AAAA ::2")
    assert found(first(server, f"dns-poll:///{NAME}")) == BOTH
    assert server.zone.asked == 1 + 2


def test_an_srv_host_without_an_address_is_a_problem_and_costs_the_others_nothing(server: dns_server.Server) -> None:
    """The sentence names record and host."""
    server.zone.set(NAME, "SRV 1 1 80 one.test.", "SRV 1 1 80 gone.test.")
    server.zone.set("one.test.", "A 127.0.0.1")
    snapshot = first(server, f"dns-poll:///{NAME}")
    assert found(snapshot) == {("127.0.0.1", 80)}
    assert snapshot.problems == (f"the SRV record of '{NAME}' names 'gone.test.', which has no address",)


def test_an_srv_record_that_says_there_is_no_service_is_an_empty_set(server: dns_server.Server) -> None:
    """RFC 2782: a target of a single dot."""
    server.zone.set(NAME, "SRV 0 0 0 .")
    snapshot = first(server, f"dns-poll:///{NAME}")
    assert (len(snapshot), snapshot.problems) == (0, ())


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
    """Whether that is accepted is the empty policy's decision."""
    assert found(first(server, "dns-poll:///unknown.test.:80")) == set()
    server.zone.set(NAME, "TXT hello")
    assert found(first(server, f"dns-poll:///{NAME}:80")) == set()


def test_the_error_names_record_name_server_and_reason(server: dns_server.Server) -> None:
    """In the words of this library, not of dnspython."""
    server.zone.rcode["*"] = "SERVFAIL"
    with pytest.raises(SourceError) as error:
        first(server, f"dns-poll:///{NAME}")
    assert str(error.value) == f"the SRV records of '{NAME}' cannot be read from DNS ({server.address}): SERVFAIL"


def test_a_silent_server_is_an_error_after_the_timeout(server: dns_server.Server) -> None:
    """The sentence says how long it was waited for."""
    server.zone.silent = True
    source = open_source(parse(f"dns-poll:///{NAME}:80"), config(server, timeout=0.2))
    with pytest.raises(SourceError, match="no answer within 0.2 s"):
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
        on_sets(self.resolver, self.passed.put)
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


def test_a_close_during_a_look_up_is_prompt_for_its_owner_and_the_last(server: dns_server.Server) -> None:
    """The owner does not wait for DNS, the thread at most for one attempt, and what DNS says afterwards goes nowhere."""
    server.zone.set(NAME, "A 127.0.0.1")
    server.zone.open.clear()
    source = open_source(parse(f"dns-poll:///{NAME}:80"), config(server, timeout=3.0))
    seen: list[Snapshot] = []
    errors: list[SourceError] = []

    def watch() -> None:
        try:
            seen.extend(source.watch())
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    with server.zone.answered:
        assert server.zone.answered.wait_for(lambda: server.zone.asked > 0, DEADLINE)
    source.close()
    asked = server.zone.asked
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert (seen, list(source.watch()), errors) == ([], [], [])
    assert server.zone.asked == asked
    server.zone.open.set()


@pytest.mark.parametrize(("text", "expected"), [("127.0.0.1:{port}", 1), ("[::ffff:127.0.0.1]:{port}", 1)])
def test_a_server_is_an_address_of_either_family_and_a_port(server: dns_server.Server, text: str, expected: int) -> None:
    """IPv6 in brackets."""
    server.zone.set(NAME, "A 127.0.0.1")
    settings = Config(dns=Dns(servers=(text.format(port=server.port),), timeout=1.0))
    assert len(next(open_source(parse(f"dns-poll:///{NAME}:80"), settings).watch())) == expected


def test_the_registry_is_named_by_its_servers() -> None:
    """So that a last known good set of one is not taken for that of another."""
    target = parse(f"dns-poll:///{NAME}:80")
    assert open_source(target, Config()).registry == "system"
    assert open_source(target, Config(dns=Dns(servers=("10.0.0.2", "10.0.0.1")))).registry == "10.0.0.1,10.0.0.2"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((0, 1), (1, 100)), ((0, 0), (1, 1)), ((5, 7), (5, 7)), ((0, 65535), (1, 65535)), ((0, 3, 1000), (1, 197, 65535))],
)
def test_a_weight_of_zero_is_small_beside_others(
    server: dns_server.Server, weights: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """RFC 2782: it should have a very small chance; where all are zero, they are equal."""
    server.zone.set("one.test.", "A 127.0.0.1")
    server.zone.set(NAME, *(f"SRV 1 {weight} {80 + place} one.test." for place, weight in enumerate(weights)))
    found = {endpoint.port - 80: endpoint.weight for endpoint in first(server, f"dns-poll:///{NAME}").endpoints}
    assert tuple(found[place] for place in range(len(weights))) == expected


def test_opening_a_target_does_not_import_dnspython() -> None:
    """It takes 0.1 s, which belongs to the source's thread."""
    code = (
        "import sys; from discovery import Config; from discovery.sources.source import open_source\n"
        "from discovery.target import parse; open_source(parse('dns-poll:///x:80'), Config()); print('dns' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE * 2)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_second_server_is_asked_where_the_first_is_down(server: dns_server.Server) -> None:
    """Within the same question."""
    server.zone.set(NAME, "A 127.0.0.1")
    settings = Config(dns=Dns(servers=("127.0.0.1:1", server.address), timeout=1.5))
    assert found(next(iter(open_source(parse(f"dns-poll:///{NAME}:80"), settings).watch()))) == {("127.0.0.1", 80)}


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
