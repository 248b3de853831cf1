"""sources/dns_lookup.py on real DNS servers: the search list, servers that fail, one family that fails, resolv.conf, the hosts file."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery import Config, Dns, SourceError, TargetError
from discovery.snapshot import Snapshot
from discovery.sources import dns as source_module
from discovery.sources.source import Source, open_source
from discovery.target import parse

pytest.importorskip("dns", reason="sources/dns.py needs dnspython: pip install dnspython")
pytest.importorskip("dnslib", reason="the DNS tests need dnslib: pip install dnslib")

from dns.resolver import Resolver

from discovery.sources import dns_lookup

from . import dns_server

FAILURES = ["SERVFAIL", "REFUSED", "NOTIMP", "SILENT"]


@pytest.fixture
def server() -> Iterator[dns_server.Server]:
    made = dns_server.Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's settings, without any server until a test writes some."""
    path = tmp_path / "resolv.conf"
    path.write_text("search a.test b.test\noptions ndots:2\n")
    monkeypatch.setattr(dns_lookup, "RESOLV_CONF", path)
    monkeypatch.setattr(source_module, "HOSTS", tmp_path / "hosts")
    return path


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """The hosts file, not there until a test writes it."""
    return tmp_path / "hosts"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look-up waits for both families, however busy the machine is."""
    monkeypatch.setattr(dns_lookup, "GRACE", 60.0)


def opened(target: str, *servers: dns_server.Server | str, timeout: float = 1.0, family: str = "any") -> Source:
    named = tuple(each if isinstance(each, str) else each.address for each in servers)
    return open_source(parse(f"dns-poll:///{target}"), Config(dns=Dns(0.01, timeout, named, family)))  # type: ignore[arg-type]


def found(snapshot: Snapshot) -> set[str]:
    return {endpoint.address for endpoint in snapshot.endpoints}


def first(target: str, *servers: dns_server.Server | str, timeout: float = 1.0, family: str = "any") -> Snapshot:
    return next(opened(target, *servers, timeout=timeout, family=family).watch())


# ---- the search list ----


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("pods", ["pods.a.test.", "pods.b.test.", "pods."]),
        ("x.pods", ["x.pods.a.test.", "x.pods.b.test.", "x.pods."]),
        ("y.x.pods", ["y.x.pods.", "y.x.pods.a.test.", "y.x.pods.b.test."]),
        ("pods.", ["pods."]),
    ],
)
def test_the_names_of_the_search_list_are_asked_in_order(server: dns_server.Server, name: str, asked: list[str]) -> None:
    """As resolv.conf(5) says: complete first from `ndots` dots on, and only complete with a dot at the end."""
    assert found(first(f"{name}:80", server)) == set()
    assert list(dict.fromkeys(question for question, _ in server.zone.questions)) == asked


@pytest.mark.parametrize("target", ["pods:80", "pods"])
@pytest.mark.parametrize("code", FAILURES)
def test_a_search_domain_that_fails_does_not_end_the_search(server: dns_server.Server, code: str, target: str) -> None:
    """The node's own domain, handed down to a pod, may be anybody's. Addresses and services alike."""
    server.zone.rcode["pods.a.test."] = code
    server.zone.set("pods.b.test.", "A 127.0.0.1", "SRV 1 1 80 one.test.")
    server.zone.set("one.test.", "A 127.0.0.1")
    snapshot = first(target, server)
    assert (found(snapshot), snapshot.problems) == ({"127.0.0.1"}, ())


@pytest.mark.parametrize("target", ["pods:80", "pods"])
@pytest.mark.parametrize("code", FAILURES)
def test_a_search_that_finds_nothing_and_failed_somewhere_is_an_error(server: dns_server.Server, code: str, target: str) -> None:
    """Nobody knows what the failed domain would have said; the sentence names it."""
    server.zone.rcode["pods.a.test."] = code
    with pytest.raises(SourceError, match=r"'pods\.a\.test\.' cannot be read from DNS"):
        first(target, server)


def test_a_domain_without_the_record_does_not_end_the_search(server: dns_server.Server) -> None:
    """As in the C library, a name that has only other records is not what was meant."""
    server.zone.set("pods.a.test.", "TXT hello")
    server.zone.set("pods.b.test.", "A 127.0.0.1")
    assert found(first("pods:80", server)) == {"127.0.0.1"}


def test_a_name_that_served_and_fails_is_not_replaced_by_a_later_domains(server: dns_server.Server) -> None:
    """Else one SERVFAIL would send all calls to whatever another domain has under the name."""
    server.zone.set("pods.a.test.", "A 127.0.0.1")
    server.zone.set("pods.b.test.", "A 127.0.0.2")
    watch = opened("pods:80", server).watch()
    assert found(next(watch)) == {"127.0.0.1"}
    server.zone.rcode["pods.a.test."] = "SERVFAIL"
    with pytest.raises(SourceError, match="SERVFAIL"):
        next(watch)


def test_a_search_domain_that_is_silent_costs_little_more_than_an_attempt(server: dns_server.Server) -> None:
    """Silent about one family, it is silent about the other."""
    server.zone.set("pods.", "A 127.0.0.1")
    server.zone.rcode["pods.a.test."] = "SILENT"
    timeout = 3.0
    begin = time.monotonic()
    assert found(first("pods:80", server, timeout=timeout)) == {"127.0.0.1"}
    assert time.monotonic() - begin < 2 * timeout / dns_lookup.ATTEMPTS


def test_a_family_that_is_silent_everywhere_does_not_use_up_the_search(server: dns_server.Server) -> None:
    """Asked once for each name, and after the first one for a moment only."""
    server.zone.set("pods.", "A 127.0.0.1")
    server.zone.rcode["AAAA"] = "SILENT"
    timeout = 3.0
    begin = time.monotonic()
    assert found(first("pods:80", server, timeout=timeout)) == {"127.0.0.1"}
    assert time.monotonic() - begin < 2 * timeout / dns_lookup.ATTEMPTS
    assert [kind for _, kind in server.zone.questions].count("AAAA") == 3


# ---- servers ----


@pytest.fixture
def three(server: dns_server.Server) -> Iterator[list[dns_server.Server]]:
    """Servers with one zone."""
    others = [dns_server.Server() for _ in range(2)]
    for other in others:
        other.zone.rcode, other.zone.records = server.zone.rcode, server.zone.records
    yield [server, *others]
    for other in others:
        other.close()


def test_domains_that_are_silent_leave_time_for_the_rest_of_the_search(three: list[dns_server.Server]) -> None:
    """However many servers are asked in vain."""
    three[0].zone.records["pods."] = ["pods. 1 IN A 127.0.0.1"]
    three[0].zone.rcode |= {"pods.a.test.": "SILENT", "pods.b.test.": "SILENT"}
    assert found(first("pods:80", *three)) == {"127.0.0.1"}


def test_a_server_that_refuses_is_not_asked_again(three: list[dns_server.Server]) -> None:
    """The resolver's backoff is for that."""
    three[0].zone.rcode["*"] = "REFUSED"
    with pytest.raises(SourceError, match="REFUSED"):
        first("pods.test.:80", *three)
    assert [each.zone.asked for each in three] == [2, 2, 2]


def test_servers_take_turns_if_resolv_conf_says_so(three: list[dns_server.Server], resolv_conf: Path) -> None:
    """Its option `rotate`."""
    resolv_conf.write_text("options rotate\n")
    three[0].zone.records["pods.test."] = ["pods.test. 1 IN A 127.0.0.1"]
    for _ in range(50):
        assert found(first("pods.test.:80", *three)) == {"127.0.0.1"}
    assert all(each.zone.asked for each in three)


def test_a_silent_first_server_costs_its_timeout_once(server: dns_server.Server) -> None:
    """Not for each name of the search list and each family."""
    silent = dns_server.Server()
    silent.zone.silent = True
    try:
        server.zone.set("pods.", "A 127.0.0.1")
        assert found(first("pods:80", silent, server)) == {"127.0.0.1"}
        assert (silent.zone.asked, server.zone.asked) == (1, 6)
        server.zone.set("x.pods.a.test.", "SRV 1 1 80 pods.", "SRV 1 1 80 more.test.")
        server.zone.set("more.test.", "A 127.0.0.2")
        silent.zone.questions.clear()
        assert found(first("x.pods", silent, server)) == {"127.0.0.1", "127.0.0.2"}
        assert len(silent.zone.questions) == 1
    finally:
        silent.close()


@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED", "NOTIMP"])
def test_a_server_that_fails_is_followed_by_the_next(server: dns_server.Server, code: str) -> None:
    """Within the same question."""
    failing = dns_server.Server()
    failing.zone.rcode["*"] = code
    try:
        server.zone.set("pods.test.", "A 127.0.0.1")
        assert found(first("pods.test.:80", failing, server)) == {"127.0.0.1"}
    finally:
        failing.close()


@pytest.mark.parametrize("target", ["pods:80", "pods"])
def test_a_look_up_ends_after_twice_the_timeout(server: dns_server.Server, target: str) -> None:
    """Whatever the length of the search list: measured against one question, not against the clock."""
    server.zone.silent = True

    def seconds(name: str) -> float:
        begin = time.monotonic()
        with pytest.raises(SourceError, match="no answer"):
            first(name, server, timeout=0.3)
        return time.monotonic() - begin

    assert seconds(target) < 3 * seconds("pods.test.:80")


# ---- one family ----


@pytest.mark.parametrize(("failing", "record"), [("AAAA", "A 127.0.0.1"), ("A", "AAAA ::1")])
@pytest.mark.parametrize("code", FAILURES)
def test_a_first_set_does_not_wait_for_a_family_that_fails(
    server: dns_server.Server, code: str, failing: str, record: str
) -> None:
    """RFC 4074: name servers exist that answer A and nothing else. A problem names the family."""
    server.zone.set("pods.test.", record)
    server.zone.rcode[failing] = code
    snapshot = first("pods.test.:80", server)
    assert found(snapshot) == {record.split()[1]}
    assert snapshot.problems[0].startswith(f"the {failing} records of 'pods.test.' cannot be read from DNS")
    assert "Dns(family=...)" in snapshot.problems[0]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("failing", ["A", "AAAA"])
def test_a_family_that_fails_removes_nothing(server: dns_server.Server, failing: str, code: str) -> None:
    """What was seen once exists until DNS says that it does not."""
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1")
    source = opened("pods.test.:80", server, timeout=3.0)
    watch = source.watch()
    assert found(next(watch)) == {"127.0.0.1", "::1"}
    server.zone.rcode[failing] = code
    with pytest.raises(SourceError, match=f"the {failing} records of"):
        next(watch)
    server.zone.rcode.clear()
    server.zone.set("pods.test.", "A 127.0.0.1" if failing == "AAAA" else "AAAA ::1")
    watch = source.watch()
    assert len(next(watch)) == 1
    server.zone.rcode[failing] = code  # the family is gone by DNS's own word, so its failure is no loss
    assert (len(changed := next(watch)), len(changed.problems)) == (1, 1)


def test_a_family_that_was_late_is_added(server: dns_server.Server) -> None:
    """And asked again at once, not after the interval."""
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1")
    server.zone.rcode["AAAA"] = "SILENT"
    refresh = 30.0
    settings = Config(dns=Dns(refresh, 6.0, (server.address,)))
    watch = open_source(parse("dns-poll:///pods.test.:80"), settings).watch()
    assert found(next(watch)) == {"127.0.0.1"}
    server.zone.rcode.clear()
    begin = time.monotonic()
    assert found(next(watch)) == {"127.0.0.1", "::1"}
    assert time.monotonic() - begin < refresh


def test_a_first_set_does_not_wait_for_a_whole_attempt(server: dns_server.Server) -> None:
    """A name server that is silent about one family must not delay the start by the timeout."""
    server.zone.set("pods.test.", "A 127.0.0.1")
    server.zone.rcode["AAAA"] = "SILENT"
    timeout = 9.0
    begin = time.monotonic()
    assert found(first("pods.test.:80", server, timeout=timeout)) == {"127.0.0.1"}
    assert time.monotonic() - begin < timeout / dns_lookup.ATTEMPTS


def test_a_family_is_asked_for_while_the_other_is_silent(server: dns_server.Server) -> None:
    """Before the silent one is asked again, so that it costs one attempt."""
    server.zone.set("pods.test.", "AAAA ::1")
    server.zone.rcode["A"] = "SILENT"
    assert found(first("pods.test.:80", server)) == {"::1"}
    assert [kind for _, kind in server.zone.questions] == ["A", "AAAA"]


@pytest.mark.usefixtures("patient")
def test_a_lost_datagram_is_sent_again(server: dns_server.Server) -> None:
    """Within the same look-up, for a family that is known, too."""
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1")
    watch = opened("pods.test.:80", server, timeout=3.0).watch()
    assert len(next(watch)) == 2
    server.zone.lose = 1
    assert len(next(watch)) == 2


@pytest.mark.usefixtures("patient")
def test_a_family_is_not_forgotten_by_an_empty_answer(server: dns_server.Server) -> None:
    """Which is not believed by default, so that the endpoints are in use still."""
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1")
    watch = opened("pods.test.:80", server).watch()
    assert len(next(watch)) == 2
    server.zone.set("pods.test.")
    assert len(next(watch)) == 0
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1")
    server.zone.rcode["AAAA"] = "SERVFAIL"
    with pytest.raises(SourceError):
        next(watch)


@pytest.mark.usefixtures("patient")
def test_a_family_that_is_no_longer_sent_along_is_asked_for(server: dns_server.Server) -> None:
    """For every host, too: the answer has grown, and the server drops what does not fit."""
    server.zone.additional = ["A", "AAAA"]
    server.zone.set("pods.test.", "SRV 1 1 80 one.test.")
    server.zone.set("one.test.", "A 127.0.0.1", "AAAA ::1")
    watch = opened("pods.test.", server).watch()
    assert found(next(watch)) == {"127.0.0.1", "::1"}
    server.zone.additional = ["A"]
    assert found(next(watch)) == {"127.0.0.1", "::1"}


def test_an_srv_host_that_cannot_be_read_removes_nothing_and_withholds_nothing(server: dns_server.Server) -> None:
    """New, it is a problem; known, an error."""
    server.zone.set("pods.test.", "SRV 1 1 80 one.test.", "SRV 1 1 80 two.test.")
    server.zone.set("one.test.", "A 127.0.0.1")
    server.zone.set("two.test.", "A 127.0.0.2")
    server.zone.rcode["two.test."] = "SERVFAIL"
    watch = opened("pods.test.", server).watch()
    snapshot = next(watch)
    assert found(snapshot) == {"127.0.0.1"}
    assert [problem.split(" cannot")[0] for problem in snapshot.problems] == ["the A and AAAA records of 'two.test.'"]
    server.zone.rcode.clear()
    assert found(next(watch)) == {"127.0.0.1", "127.0.0.2"}
    server.zone.rcode["two.test."] = "SERVFAIL"
    with pytest.raises(SourceError, match=r"'two\.test\.'"):
        next(watch)


def test_a_silent_family_of_many_srv_hosts_is_waited_for_once(server: dns_server.Server) -> None:
    """A set of 200 must not take 200 times as long."""
    hosts = [f"pod-{number}.test." for number in range(20)]
    server.zone.set("pods.test.", *(f"SRV 1 1 80 {host}" for host in hosts))
    for number, host in enumerate(hosts):
        server.zone.set(host, f"A 127.0.0.{number + 1}")
    server.zone.rcode["AAAA"] = "SILENT"
    snapshot = first("pods.test.", server)
    assert len(snapshot) == 20
    assert [kind for _, kind in server.zone.questions].count("AAAA") == 1
    assert "and 19 more" in snapshot.problems[0]


@pytest.mark.parametrize(("family", "kind", "expected"), [("ipv4", "A", "127.0.0.1"), ("ipv6", "AAAA", "::1")])
@pytest.mark.parametrize("additional", [[], ["A", "AAAA"]])
def test_the_setting_asks_for_one_family(
    server: dns_server.Server, family: str, kind: str, expected: str, additional: list[str]
) -> None:
    """For a name, and for the hosts of services, sent along or asked for."""
    server.zone.additional = additional
    server.zone.set("pods.test.", "A 127.0.0.1", "AAAA ::1", "SRV 1 1 80 pods.test.")
    for target in ("pods.test.:80", "pods.test."):
        assert found(first(target, server, family=family)) == {expected}
    assert {asked for _, asked in server.zone.questions} <= {kind, "SRV"}


def test_an_unknown_family_is_refused() -> None:
    """With the words that are known."""
    with pytest.raises(TargetError, match="'v4'.*'any', 'ipv4' or 'ipv6'"):
        Dns(family="v4")  # type: ignore[arg-type]


# ---- resolv.conf ----


@pytest.fixture
def system(server: dns_server.Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Snapshot]:
    """A look-up with the servers of resolv.conf, at the test server's port."""
    monkeypatch.setattr(Resolver, "port", property(lambda self: server.port, lambda self, _: None), raising=False)
    server.zone.set("pods.a.test.", "A 127.0.0.1")
    return first


@pytest.mark.parametrize(
    "odd",
    [
        "nameserver dns.example",
        "nameserver",
        "search a.test corp..example",
        f"search {'x' * 64}.test a.test",
        "options ndots:x",
        "\x00\xff",
    ],
)
def test_lines_that_the_c_library_steps_over_are_stepped_over(
    system: Callable[[str], Snapshot], resolv_conf: Path, odd: str
) -> None:
    """One bad word costs only itself."""
    resolv_conf.write_bytes(f"search a.test\nnameserver 127.0.0.1\n{odd}\n".encode("latin-1"))
    assert found(system("pods:80")) == {"127.0.0.1"}


def test_a_resolv_conf_that_changed_is_read_anew(system: Callable[[str], Snapshot], resolv_conf: Path) -> None:
    """DHCP, a VPN, a network that comes up after the program."""
    source = opened("pods:80", timeout=0.2)
    with pytest.raises(SourceError, match="names no DNS server"):
        next(source.watch())
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch b.test\n")
    watch = source.watch()
    assert found(next(watch)) == set()
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch a.test\n")
    assert found(next(watch)) == {"127.0.0.1"}


def test_configured_servers_need_no_resolv_conf(server: dns_server.Server, resolv_conf: Path) -> None:
    """A container without one."""
    resolv_conf.unlink()
    server.zone.set("pods.test.", "A 127.0.0.1")
    assert found(first("pods.test.:80", server)) == {"127.0.0.1"}


# ---- the hosts file ----


@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        ("db", "any", {"10.0.0.1", "10.0.0.2", "fd00::1"}),
        ("DB.Team.", "any", {"10.0.0.1"}),
        ("db", "ipv6", {"fd00::1"}),
        ("db", "ipv4", {"10.0.0.1", "10.0.0.2"}),
        ("comment", "any", set()),
        ("localhost", "any", {"127.0.0.1"}),
        ("localhost", "ipv6", {"::1"}),
        ("x.localhost.", "any", {"127.0.0.1", "::1"}),
    ],
)
def test_the_hosts_file_is_read_before_dns_is_asked(
    server: dns_server.Server, hosts: Path, name: str, family: str, expected: set[str]
) -> None:
    """Kubernetes' hostAliases and docker's extra_hosts are written there; localhost is always this host (RFC 6761)."""
    hosts.write_bytes(
        b"# a comment\n10.0.0.1\tDB db.team # comment\n10.0.0.2 db\nFD00:0::1 other db\nfe80::1%eth0 db\nnonsense db\n\xff db\n\n"
        b"127.0.0.1 localhost\n10.9.9.9 localhost\n"
    )
    snapshot = first(f"{name}:80", server, family=family)
    assert (found(snapshot), snapshot.problems) == (expected, ())
    assert bool(server.zone.questions) == (not expected)


def test_a_hosts_file_that_changed_is_read_anew(server: dns_server.Server, hosts: Path) -> None:
    """At the next look-up."""
    server.zone.set("db.test.", "A 10.0.0.9")
    watch = opened("db.test.:80", server).watch()
    assert found(next(watch)) == {"10.0.0.9"}
    hosts.write_text("10.0.0.1 db.test\n")
    assert found(next(watch)) == {"10.0.0.1"}
    hosts.unlink()
    assert found(next(watch)) == {"10.0.0.9"}


def test_the_hosts_of_services_may_be_in_the_hosts_file(server: dns_server.Server, hosts: Path) -> None:
    """As for a program that connects to the name."""
    server.zone.set("pods.test.", "SRV 1 1 80 one.test.")
    server.zone.set("one.test.", "A 127.0.0.1")
    hosts.write_text("10.0.0.1 ONE.test\n")
    assert found(first("pods.test.", server)) == {"10.0.0.1"}


def test_a_name_that_is_too_long_with_every_domain_is_an_error(server: dns_server.Server) -> None:
    """Not an exception of dnspython."""
    name = ".".join(["x" * 62] * 4) + ".yy"
    with pytest.raises(SourceError, match="too long"):
        first(f"{name}:80", server)
