"""sources/etcd.py and etcd_client.py on a real etcd: what is etcd's own, beside the conformance suite."""

import contextlib
import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from discovery import Config, Etcd, Registrar, Snapshot, SourceError, TargetError
from discovery.sources import etcd_client
from discovery.sources.etcd import Watch
from discovery.sources.etcd_client import Entry, EtcdClient, EtcdError, prefix_end
from discovery.sources.source import open_source
from discovery.target import parse
from discovery.testing import EtcdServer
from discovery.wire import messages_pb2 as wire

from .etcd_proxy import EtcdProxy
from .servers import DEADLINE
from .test_etcd_values import Watched, at

trustme = pytest.importorskip("trustme", reason="the TLS tests need trustme: pip install trustme")
pytestmark = pytest.mark.etcd

# Not quicker: on a busy machine a leader that is late for its own ticks is none for half a minute.
QUICK = ("--heartbeat-interval", "50", "--election-timeout", "500", "--bcrypt-cost", "4")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """For tests that leave it running."""
    with started(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EtcdServer]:
    """For tests that stop or freeze it."""
    with started(tmp_path) as made:
        yield made


@contextlib.contextmanager
def started(folder: Path, *options: str, scheme: str = "http") -> Iterator[EtcdServer]:
    made = EtcdServer(folder / "etcd", (*QUICK, *options), scheme)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def service() -> str:
    """A name of its own for each test."""
    return f"team/{uuid.uuid4().hex}"


def put(server: EtcdServer, key: str, value: bytes) -> int:
    with server.client() as client:
        return client.put(key.encode(), value, 0)


def test_only_keys_below_the_name_are_seen(server: EtcdServer, service: str) -> None:
    """Not `foo_other`, not `foo` itself, not what sorts next to `foo/`; neither at first nor later."""
    others = [f"{service}{rest}" for rest in ("_other/a", "", "0", ".", "0/a", "-a/b")]
    for key in (*others, f"{service}/a", f"{service}/b/c"):
        put(server, key, at(1 if key in others else 2))
    with Watched(server.settings(), service) as watched:
        assert {endpoint.name for endpoint in watched.next().endpoints} == {f"{service}/a"}  # b/c has the same address
        for key in (*others, f"{service}/d"):
            put(server, key, at(3 if key in others else 4))
        assert watched.ports() == {2, 4}


def test_two_puts_of_one_transaction_are_one_snapshot(server: EtcdServer, service: str) -> None:
    """A transaction is never seen by halves."""
    with Watched(server.settings(), service) as watched:
        assert watched.ports() == set()
        puts = "\n".join(f"put {service}/{port} {json.dumps(at(port).decode())}" for port in (1, 2))
        command = ["etcdctl", "--endpoints", server.address, "txn"]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        subprocess.run(command, input=f"\n{puts}\n\n\n", text=True, check=True, timeout=DEADLINE, env=environment)
        assert watched.ports() == {1, 2}


def test_a_put_of_the_same_changes_nothing_and_a_put_of_another_address_replaces(server: EtcdServer, service: str) -> None:
    """A key is one endpoint, whatever it holds."""
    key = f"{service}/a"
    put(server, key, at(1))
    with Watched(server.settings(), service) as watched:
        assert watched.ports() == {1}
        put(server, key, at(1))
        put(server, key, at(2))
        assert watched.ports() == {2}
        server.control("del", key)
        assert watched.ports() == set()


def test_a_corrupt_value_is_named_and_costs_the_others_nothing_and_is_mended_by_the_next(
    server: EtcdServer, service: str
) -> None:
    """One typing error in a registry is one endpoint less, and a sentence."""
    put(server, f"{service}/good", at(1))
    put(server, f"{service}/bad", b"{")
    with Watched(server.settings(), service) as watched:
        for bad in (b'{"Addr":7}', b"\xff", at(2)):
            snapshot = watched.next()
            assert [endpoint.port for endpoint in snapshot.endpoints] == [1]
            assert len(snapshot.problems) == 1
            assert f"{service}/bad" in snapshot.problems[0]
            put(server, f"{service}/bad", bad)
        assert (mended := watched.next()).problems == ()
        assert {endpoint.port for endpoint in mended.endpoints} == {1, 2}


def test_a_watch_begins_after_what_was_read(server: EtcdServer, service: str) -> None:
    """The last change of that does not come again: etcd delivers a watch that begins in the past up to 100 ms late."""
    prefix = f"{service}/".encode()
    put(server, f"{service}/a", at(1))
    with server.client() as client:
        watch = Watch(client, prefix, prefix_end(prefix), *client.range(prefix, prefix_end(prefix)))
        put(server, f"{service}/b", at(2))
        assert [change.key for change in next(changes for changes in watch if changes)] == [f"{service}/b".encode()]


def test_a_watch_from_a_compacted_revision_is_an_error(server: EtcdServer, service: str) -> None:
    """The changes in between are lost, and nobody may believe otherwise."""
    first, *_, last = (put(server, f"{service}/a", at(port)) for port in (1, 2, 3))
    server.control("compact", str(last))
    with server.client() as client, pytest.raises(EtcdError, match=f"{server.address}: the revision .* was compacted"):
        list(islice(Watch(client, f"{service}/".encode(), prefix_end(f"{service}/".encode()), first, []), 9))


def test_a_source_reads_all_again_after_a_compaction_between_get_and_watch(server: EtcdServer, service: str) -> None:
    """An error for the resolver, and then the whole set."""
    source = open_source(parse(f"etcd:///{service}"), Config(etcd=server.settings()))
    watch = source.watch()
    assert next(watch).endpoints == frozenset()
    last = [put(server, f"{service}/{port}", at(port)) for port in (1, 2)][-1]
    server.control("compact", str(last))
    with pytest.raises(SourceError, match="compacted"):
        list(islice(watch, 9))
    assert len(next(source.watch())) == 2
    source.close()


def test_a_close_between_get_and_watch_is_an_end_without_an_error(server: EtcdServer, service: str) -> None:
    """However late the close comes."""
    source = open_source(parse(f"etcd:///{service}"), Config(etcd=server.settings()))
    watch = source.watch()
    next(watch)
    source.close()
    assert list(watch) == []
    assert list(source.watch()) == []


@pytest.fixture(scope="module", params=["member", "proxy"])
def either(request: pytest.FixtureRequest, server: EtcdServer) -> Iterator[EtcdServer | EtcdProxy]:
    """A member, or etcd's gRPC proxy in front of it, which answers no progress requests."""
    if request.param == "member":
        yield server
    else:
        with EtcdProxy(server) as proxy:
            yield proxy


def test_a_quiet_watch_is_kept_for_as_long_as_the_member_answers(
    server: EtcdServer, either: EtcdServer | EtcdProxy, service: str
) -> None:
    """Where nobody writes anything at all, and where keys come and go, are overwritten and deleted before the question."""
    with Watched(either.settings(keepalive=0.1), service) as watched:
        for _ in range(6):
            assert watched.seen.get(timeout=DEADLINE) == Snapshot()
        for round in range(1, 4):
            put(server, f"{service}/a", at(round))
            put(server, f"{service}/b", at(10 + round))
            while watched.ports() != {round, 10 + round}:
                pass
            server.control("del", f"{service}/b")
            assert watched.ports() == {round}
            for _ in range(3):
                assert len(watched.seen.get(timeout=DEADLINE)) == 1  # type: ignore[arg-type]


def test_a_watch_that_delivers_nothing_is_noticed_though_its_member_answers(
    server: EtcdServer, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that the range has, and the watch does not: the member itself answers every question."""

    def nothing(client: EtcdClient, response: wire.WatchResponse) -> list[Entry]:
        return []

    monkeypatch.setattr(EtcdClient, "_changes", nothing)
    put(server, f"{service}/a", at(1))
    for change in (["put", f"{service}/a", "x"], ["put", f"{service}/b", "x"], ["del", f"{service}/a"]):
        with Watched(server.settings(keepalive=0.1, timeout=0.5), service) as watched:
            watched.next()
            server.control(*change)
            assert watched.error() == f"etcd at {server.address} has been silent for 0.6 s"


def test_keys_that_begin_with_a_slash_are_found(server: EtcdServer) -> None:
    """As many programs write them; in both spellings, and not those without the slash."""
    name = uuid.uuid4().hex
    put(server, f"/team/{name}/a", at(1))
    put(server, f"team/{name}/a", at(2))
    for target in (f"etcd:////team/{name}", f"etcd:///%2Fteam/{name}"):
        source = open_source(parse(target), Config(etcd=server.settings()))
        assert {endpoint.port for endpoint in next(source.watch()).endpoints} == {1}
        source.close()


def test_a_source_opens_no_channel_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening is cheap, whatever thread does it; each member's address is looked at, and the registry's name is known."""
    monkeypatch.setattr(etcd_client, "own_channel", None)
    endpoints = ("etcd-1:2379", "https://etcd-0:2379")
    source = open_source(parse("etcd:///greeter"), Config(etcd=Etcd(endpoints, user="app", password="secret")))
    assert source.registry == "etcd-1:2379,https://etcd-0:2379"
    Registrar("etcd:///greeter", "10.0.0.1:1", config=Config(etcd=Etcd(endpoints)))
    with pytest.raises(TargetError, match="'etcd-2' cannot be used"):
        open_source(parse("etcd:///greeter"), Config(etcd=Etcd((*endpoints, "etcd-2"))))


def test_a_watch_for_which_no_thread_can_be_started_is_an_error(
    own: EtcdServer, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of pids: the set is there, what follows is tried again; no connection is left that gRPC could not close."""
    start, refusing = threading.Thread.start, threading.Event()

    def refuse(self: threading.Thread) -> None:
        if refusing.is_set():
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Watched(own.settings(), service) as watched:
        watched.next()
        refusing.set()
        own.stop()
        watched.error()
        own.start()
        while "can't start new thread (Watch)" not in str(watched.seen.get(timeout=DEADLINE)):
            pass
        refusing.clear()
        put(own, f"{service}/a", at(1))
        while watched.ports(SourceError) != {1}:
            pass


def test_a_close_ends_a_running_watch_at_once(own: EtcdServer, service: str) -> None:
    """From another thread, also while the member hangs and is asked whether it lives."""
    for hanging in (False, True):
        with Watched(own.settings(timeout=4 * DEADLINE, keepalive=0.1), service) as watched:
            watched.next()
            watched.seen.get(timeout=DEADLINE)
            if hanging:  # the block's end closes the source, and waits for its thread less long than a request may take
                own.freeze()


@pytest.mark.parametrize(
    ("fault", "reason", "later"), [("freeze", "has been silent for", "no answer within 1 s"), ("stop", "(Watch)", "onnect")]
)
def test_a_member_that_hangs_or_dies_is_noticed_and_the_next_is_taken(
    server: EtcdServer, own: EtcdServer, service: str, fault: str, reason: str, later: str
) -> None:
    """In the middle of a watch, and at the start of one; the members differ, which tells who was read."""
    for port, member in enumerate((own, server), 1):
        put(member, f"{service}/a", at(port))
    settings = Etcd((own.address, server.address), timeout=DEADLINE, keepalive=0.2)
    if fault == "freeze":  # only what hangs is found by impatience, which on a busy machine also finds what does not
        settings = replace(settings, timeout=1.0)
    with Watched(settings, service) as watched:
        assert watched.ports() == {1}
        watched.seen.get(timeout=DEADLINE)  # a sign of life: the watch stands
        getattr(own, fault)()
        assert re.search(f"{own.address}.*{re.escape(reason)}", watched.error())
        assert watched.ports() == {2}
    with Watched(settings, service) as watched:
        assert re.search(f"{own.address}.*{later}", watched.error())
        assert watched.ports() == {2}


def add_users(server: EtcdServer, right: str, prefix: str) -> None:
    """`app` has the right below the prefix, `stranger` none, and without a user nothing is told any more."""
    for line in (
        "user add root:root", "role add root", "user grant-role root root", "user add app:secret", "user add stranger:secret",
        "role add some", f"role grant-permission some {right} {prefix} --prefix", "user grant-role app some", "auth enable",
    ):  # fmt: skip
        server.control(*line.split())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """With users."""
    with started(tmp_path_factory.mktemp("guarded")) as made:
        put(made, "open/a", at(1))
        add_users(made, "read", "open/")
        yield made


@pytest.mark.parametrize(
    ("service", "user", "reason"),
    [
        ("open", {"user": "app", "password": "wrong"}, "does not accept the user 'app' and its password"),
        ("open", {}, r"wants a user; set Etcd\(user=\.\.\., password=\.\.\.\)"),
        ("open", {"user": "stranger", "password": "secret"}, "user 'stranger' may not do this .*; grant its role the prefix"),
        ("ope", {"user": "app", "password": "secret"}, "user 'app' may not do this .*; grant its role the prefix"),
    ],
    ids=["wrong password", "no user", "no role", "another prefix"],
)
def test_whoever_may_not_read_is_told_what_to_change(
    guarded: EtcdServer, service: str, user: dict[str, str], reason: str
) -> None:
    """The sentence names the member, the user and the remedy, and not the password."""
    with Watched(guarded.settings(**user), service) as watched:
        error = watched.error()
        assert re.search(f"etcd at {guarded.address}: .*{reason}", error)
        assert user.get("password", "nothing") not in error


def test_a_token_that_died_with_the_server_is_renewed(guarded: EtcdServer) -> None:
    """etcd's simple tokens live in its memory; the watch goes on after a restart, and sees changes."""
    with Watched(guarded.settings(user="app", password="secret"), "open") as watched:
        assert watched.ports() == {1}
        guarded.stop()
        assert guarded.address in watched.error()
        guarded.start()
        assert watched.ports(SourceError) == {1}
        guarded.control("--user", "root:root", "put", "open/b", at(2).decode())
        assert watched.ports() == {1, 2}


def test_a_user_is_no_error_while_authentication_is_off(own: EtcdServer) -> None:
    """The step before it is turned on, as for etcd's Go client; after that, the watch goes on, and new ones have the rights."""
    settings = own.settings(user="app", password="secret", keepalive=0.1)
    with Watched(settings, "open") as watched:
        assert watched.ports() == set()
        put(own, "open/a", at(1))
        assert watched.ports() == {1}
        add_users(own, "read", "open/")
        for _ in range(3):
            assert len(watched.seen.get(timeout=DEADLINE)) == 1  # type: ignore[arg-type]
        own.control("--user", "root:root", "put", "open/b", at(2).decode())
        assert watched.ports() == {1, 2}
    with Watched(settings, "open") as watched:
        assert watched.ports() == {1, 2}


def test_a_token_that_expired_is_fetched_anew(guarded: EtcdServer) -> None:
    """While the connection stands: the next request has another one."""
    with contextlib.closing(EtcdClient(guarded.settings(user="app", password="secret"), 0)) as client:
        client.authenticate()
        for _ in range(2):
            assert len(client.range(b"open/a")[1]) == 1
            for change in (["--user", "root:root", "auth", "disable"], ["auth", "enable"]):  # forgets all tokens
                guarded.control(*change)


@pytest.fixture(scope="module", params=["server only", "both"])
def encrypted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EtcdServer, Any, str]]:
    """A member with TLS, which in one case wants certificates of its clients; the files to reach it, and one that is wrong."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    files = {name: str(folder / f"{name}.pem") for name in ("ca", "certificate", "key")}
    made = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(files["ca"])
    made.cert_chain_pems[0].write_to_path(files["certificate"])
    made.private_key_pem.write_to_path(files["key"])
    trustme.CA().cert_pem.write_to_path(other := str(folder / "other.pem"))
    options = ["--cert-file", files["certificate"], "--key-file", files["key"]]
    if request.param == "both":
        options += ["--client-cert-auth", "--trusted-ca-file", files["ca"]]
    with started(folder, *options, scheme="https") as server:
        yield server, files if request.param == "both" else {"ca": files["ca"]}, other


def test_tls_in_every_spelling_and_with_a_certificate_of_ones_own(encrypted: tuple[EtcdServer, Any, str], service: str) -> None:
    """`host:port` with a ca, and `https://host:port`."""
    server, files, _ = encrypted
    for port, endpoint in enumerate((server.address, f"https://{server.address}", f"https://{server.address}/"), 1):
        settings = Etcd((endpoint,), **files)
        with Watched(settings, service) as watched, contextlib.closing(EtcdClient(settings, 0)) as client:
            watched.ports()
            client.put(f"{service}/{port}".encode(), at(port), 0)
            assert port in watched.ports()


def test_an_unknown_authority_and_a_missing_certificate_are_named(encrypted: tuple[EtcdServer, Any, str]) -> None:
    """Never plaintext, never a set, and the sentence names the setting."""
    server, files, other = encrypted
    cases: list[tuple[str, dict[str, Any], str]] = [
        (f"https://{server.address}", {"ca": other}, f"Etcd(ca='{other}')"),
        (f"http://{server.address}", {}, server.address),
    ]
    if "key" in files:
        cases.append((server.address, {"ca": files["ca"]}, "Etcd(certificate=..., key=...)"))
    for endpoint, given, reason in cases:
        with Watched(Etcd((endpoint,), **given), "foo") as watched:
            assert reason in watched.error()


def test_renewed_certificates_are_taken_up_without_a_restart(tmp_path: Path, service: str) -> None:
    """Another authority at both ends; etcd itself reads its authority only when it starts."""
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "certificate", "key")}

    def issue() -> None:
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(files["ca"])
        made.cert_chain_pems[0].write_to_path(files["certificate"])
        made.private_key_pem.write_to_path(files["key"])

    def put(server: EtcdServer, port: int) -> None:
        with contextlib.closing(EtcdClient(server.settings(timeout=DEADLINE, **files), 0)) as client:
            client.put(f"{service}/{port}".encode(), at(port), 0)

    issue()
    options = [
        "--cert-file",
        files["certificate"],
        "--key-file",
        files["key"],
        "--client-cert-auth",
        "--trusted-ca-file",
        files["ca"],
    ]
    with started(tmp_path, *options, scheme="https") as server:
        put(server, 1)
        with Watched(server.settings(**files), service) as watched:
            assert watched.ports() == {1}
            issue()
            server.stop()
            server.start()
            put(server, 2)
            assert 2 in watched.ports(SourceError)


def test_a_certificate_file_that_vanishes_is_an_error_to_recover_from(tmp_path: Path) -> None:
    """As while a secret is renewed; at the start it is refused, later it is waited for."""
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    with Watched(Etcd(("127.0.0.1:1",), ca=str(ca)), "foo") as watched:
        assert "127.0.0.1:1" in watched.error()
        ca.unlink()
        assert f"Etcd(ca='{ca}') cannot be read: No such file or directory" in (watched.error() for _ in range(50))
