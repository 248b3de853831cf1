"""channel.py and aio.py on real servers: traffic goes where the snapshot says."""

import asyncio
import gc
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from discovery import (
    Config,
    Endpoint,
    Etcd,
    Health,
    Manual,
    NotSyncedError,
    Outliers,
    TargetError,
    aio,
    insecure_channel,
    secure_channel,
    status,
    wait_until_synced,
)
from discovery.channel import open_target
from discovery.testing import Backend
from discovery.xds import runtime
from discovery.xds.runtime import process

from . import tls_servers
from .servers import DEADLINE, Server, servers, share, streaming, unary, until, who

RETRY = (
    '{"methodConfig": [{"name": [{"service": "test.Echo"}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.01s",'
    ' "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
)


@pytest.fixture
def manual() -> Manual:
    """A target of its own for each test."""
    return Manual(f"test-{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closing the last channel on a target stops its source and its threads; forgetting it does, after a while."""
    monkeypatch.setattr(runtime, "LINGER", 0.0)
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith(("discovery source", "discovery health")):
            thread.join(DEADLINE)
            assert not thread.is_alive(), f"{thread.name} outlives its channels"
    until(lambda: process.statuses() == [])


def test_calls_are_spread_evenly_and_follow_every_change(manual: Manual) -> None:
    """Add, remove and replace all, on one channel that lives on."""
    with servers("a", "b", "c", "d") as running, insecure_channel(manual.target) as channel:
        for names in ("abc", "abcd", "bcd", "a", "abcd"):
            manual.set([running[name].address for name in names])
            until(lambda names=names: set(share(channel, 3 * len(names))) == set(names))  # type: ignore[misc]
            assert share(channel, 60 * len(names)) == Counter(dict.fromkeys(names, 60))
        assert status(manual.target).nacks == 0


def test_the_same_in_grpc_aio(manual: Manual) -> None:
    """One core serves both; interceptors of the caller's stay in force."""

    class Count(grpc.aio.UnaryUnaryClientInterceptor):
        calls = 0

        async def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
            self.calls += 1
            return await continuation(details, request)

    async def run(running: Mapping[str, Backend]) -> Counter[bytes]:
        count = Count()
        async with aio.insecure_channel(manual.target, interceptors=[count]) as channel:
            waiting = asyncio.create_task(aio.wait_until_synced(manual.target, DEADLINE))
            await asyncio.sleep(0)
            manual.set([running["a"].address, running["b"].address])
            await waiting
            await channel.channel_ready()
            call = unary(channel)
            answers = Counter([await call(b"", timeout=DEADLINE) for _ in range(100)])
            assert count.calls == 100
            async for message in streaming(channel)(b"", timeout=DEADLINE):
                assert message in (b"a", b"b")
                break
            return answers

    with servers("a", "b") as running:
        answers = asyncio.run(run(running))
    assert set(answers) == {b"a", b"b"}
    assert min(answers.values()) >= 40


def test_waiting_for_a_first_set_in_aio_ends_with_the_reason(manual: Manual) -> None:
    """And leaves the event loop free."""

    async def run() -> None:
        async with aio.insecure_channel(manual.target):
            await aio.wait_until_synced(manual.target, 0.01)

    with pytest.raises(NotSyncedError, match="the registry has not answered yet"):
        asyncio.run(run())


def test_a_call_made_before_the_first_set_waits_for_it(manual: Manual) -> None:
    """A client may start before any server is known."""
    with servers("a") as running, insecure_channel(manual.target) as channel:
        answer = unary(channel).future(b"", timeout=DEADLINE)
        manual.set([running["a"].address])
        assert answer.result() == b"a"


def test_an_empty_set_fails_calls_at_once_and_heals(manual: Manual) -> None:
    """A program that sets an empty set means it."""
    with servers("a") as running, insecure_channel(manual.target) as channel:
        manual.set([])
        wait_until_synced(manual.target, DEADLINE)
        with pytest.raises(grpc.RpcError) as error:
            unary(channel)(b"", timeout=DEADLINE)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        manual.set([running["a"].address])
        assert who(channel, wait_for_ready=True) == "a"


def test_a_stream_in_flight_survives_the_removal_of_its_server(manual: Manual) -> None:
    """Only new calls go elsewhere."""
    with servers("a", "b") as running, insecure_channel(manual.target) as channel:
        manual.set([running["a"].address])
        stream = streaming(channel)(b"", timeout=DEADLINE)
        assert next(stream) == b"a"
        manual.set([running["b"].address])
        until(lambda: who(channel) == "b")
        assert [next(stream) for _ in range(5)] == [b"a"] * 5
        stream.cancel()


def test_channels_on_one_target_share_one_source(manual: Manual) -> None:
    """And closing one of them leaves the other at work."""
    with servers("a") as running:
        first, second = insecure_channel(manual.target), insecure_channel(manual.target)
        manual.set([running["a"].address])
        assert (who(first), who(second)) == ("a", "a")
        assert len(process.statuses()) == 1
        first.close()
        first.close()
        assert who(second) == "a"
        second.close()


def test_targets_in_one_process_do_not_mix(manual: Manual) -> None:
    """Each has its own set, also after a change of the other."""
    other = Manual(f"{manual.target.removeprefix('manual:///')}-other")
    with servers("a", "b", "c") as running, insecure_channel(manual.target) as one, insecure_channel(other.target) as two:
        manual.set([running["a"].address])
        other.set([running["b"].address])
        assert (set(share(one, 20)), set(share(two, 20))) == ({"a"}, {"b"})
        other.set([running["c"].address])
        until(lambda: who(two) == "c")
        assert set(share(one, 20)) == {"a"}


def test_a_channel_that_is_forgotten_is_given_back_and_a_stub_keeps_it(manual: Manual) -> None:
    """As with gRPC: a stub alone keeps its channel at work."""
    with servers("a") as running:
        call = unary(insecure_channel(manual.target))
        manual.set([running["a"].address])
        gc.collect()
        assert call(b"", timeout=DEADLINE) == b"a"
        assert len(process.statuses()) == 1


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "certificate files"])
def test_a_call_keeps_its_channel(secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with gRPC: whoever holds a call needs neither its channel nor its method, and may read it later."""
    monkeypatch.setattr(runtime, "LINGER", 3.0)
    folder = tls_servers.Folder(tmp_path / "tls", tls_servers.NAME, tls_servers.trustme.CA())
    files = folder.files()

    async def call_aio(target: str) -> list[bytes]:
        def channel() -> grpc.aio.Channel:
            return aio.secure_channel(target, files, tls_servers.OPTIONS) if secure else aio.insecure_channel(target)

        calls = unary(channel())(b"", timeout=DEADLINE), streaming(channel())(b"", timeout=DEADLINE)
        gc.collect()
        return [await calls[0], await calls[1].read()]

    def call_sync(target: str) -> list[bytes]:
        def channel() -> grpc.Channel:
            return secure_channel(target, files, tls_servers.OPTIONS) if secure else insecure_channel(target)

        calls = unary(channel()).future(b"", timeout=DEADLINE), streaming(channel())(b"", timeout=DEADLINE)
        gc.collect()
        answers = [unary(channel())(b"", timeout=DEADLINE), calls[0].result(), next(calls[1])]
        calls[1].cancel()
        return answers

    with tls_servers.secure_server(files) as encrypted, servers("a") as running:
        target = f"static:///{encrypted if secure else running['a'].address}"
        answer = tls_servers.NAME.encode() if secure else b"a"
        assert call_sync(target) == [answer] * 3
        assert asyncio.run(call_aio(target)) == [answer] * 2


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "certificate files"])
@pytest.mark.parametrize("target", ["static:///127.0.0.1:1", "ipv4:127.0.0.1:1"])
def test_channels_and_methods_are_instances_of_grpcs_own_classes(target: str, secure: bool, tmp_path: Path) -> None:
    """Libraries such as google-api-core choose by isinstance."""
    folder = tls_servers.Folder(tmp_path / "tls", tls_servers.NAME, tls_servers.trustme.CA())
    credentials = folder.files()

    def check(channel: grpc.Channel | grpc.aio.Channel, module: Any) -> None:
        assert isinstance(channel, module.Channel)
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            expected = getattr(module, f"{kind.title().replace('_', '')}MultiCallable")
            assert isinstance(getattr(channel, kind)("/test.Echo/Who"), expected)

    async def check_aio() -> None:
        async with aio.secure_channel(target, credentials) if secure else aio.insecure_channel(target) as channel:
            check(channel, grpc.aio)
            await channel.close()

    with secure_channel(target, credentials) if secure else insecure_channel(target) as channel:
        check(channel, grpc)
        channel.close()
    asyncio.run(check_aio())


def test_waiting_for_a_first_set_in_aio_ends_when_the_target_is_closed(manual: Manual) -> None:
    """At once, as without asyncio."""

    async def run() -> None:
        channel = aio.insecure_channel(manual.target)
        waiting = asyncio.create_task(aio.wait_until_synced(manual.target, DEADLINE))
        await asyncio.sleep(0)
        await channel.close()
        await waiting

    with pytest.raises(NotSyncedError, match="was closed before its first set"):
        asyncio.run(run())


def test_a_channel_that_cannot_be_opened_keeps_no_target(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever gRPC, or what instruments it, raises."""

    def refuse(*args: object, **kwargs: object) -> grpc.Channel:
        raise MemoryError

    monkeypatch.setattr(grpc, "insecure_channel", refuse)
    monkeypatch.setattr(runtime, "LINGER", 3600.0)
    with pytest.raises(MemoryError) as error:
        insecure_channel(manual.target)
    del error
    until(lambda: process.statuses() == [])


def test_the_name_that_errors_show_says_nothing_of_the_settings() -> None:
    """Not even by a digest: who reads a log could try passwords."""
    secret = Config(etcd=Etcd(("127.0.0.1:9",), user="root", password="hunter2"))
    names = set()
    for _ in range(2):
        uri, _, lease = open_target("etcd:///greeter", None, secret, None)
        assert lease is not None
        lease.close()
        names.add(uri)
    assert len(names) == 2, "the same settings make the same name"
    assert all(name.startswith("xds://grpc-discovery/etcd.greeter-") for name in names)


def test_a_service_config_keeps_its_retries(manual: Manual) -> None:
    """Existing code loses nothing when only its target changes."""

    def fail(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no")

    server = Server("bad", behave=fail)
    try:
        with insecure_channel(manual.target, options=[("grpc.service_config", RETRY)]) as channel:
            manual.set([server.address])
            call = unary(channel)
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=DEADLINE)
            assert server.calls == 4
    finally:
        server.stop()


def test_channels_with_other_retries_share_the_source_but_not_the_routes(manual: Manual) -> None:
    """A policy belongs to a channel, not to a target."""

    def fail(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no")

    server = Server("bad", behave=fail)
    try:
        with (
            insecure_channel(manual.target, options=[("grpc.service_config", RETRY)]) as retrying,
            insecure_channel(manual.target) as plain,
        ):
            manual.set([server.address])
            assert len(process.statuses()) == 1
            for channel, attempts in ((retrying, 4), (plain, 1)):
                before = server.calls
                with pytest.raises(grpc.RpcError):
                    unary(channel)(b"", timeout=DEADLINE)
                assert server.calls == before + attempts
    finally:
        server.stop()


def test_a_draining_server_serves_only_when_nothing_better_is_left(manual: Manual) -> None:
    """As kube-proxy does it: serving and terminating is the last resort; not ready is none."""
    with servers("a", "b", "c") as running, insecure_channel(manual.target) as channel:
        ready, draining, down = (
            Endpoint("127.0.0.1", running[name].port, health=health)
            for name, health in (("a", Health.HEALTHY), ("b", Health.DRAINING), ("c", Health.UNHEALTHY))
        )
        manual.set([ready, draining, down])
        assert set(share(channel, 30)) == {"a"}
        manual.set([draining, down])
        until(lambda: who(channel) == "b")
        assert set(share(channel, 30)) == {"b"}


def test_weights_are_shares(manual: Manual) -> None:
    """gRPC's round_robin knows no weights of endpoints; localities carry them."""
    with servers("light", "heavy") as running, insecure_channel(manual.target) as channel:
        manual.set(
            [Endpoint("127.0.0.1", running["light"].port, weight=1), Endpoint("127.0.0.1", running["heavy"].port, weight=9)]
        )
        counted = share(channel, 1000)
        assert 40 <= counted["light"] <= 200


def test_the_own_zone_is_preferred_and_left_when_it_dies_or_grows_too_small(manual: Manual) -> None:
    """Zones are priorities, and one priority when too few locals are left to carry a zone's clients."""
    with (
        servers("near", "far", "far2", "far3", "far4") as running,
        insecure_channel(manual.target, config=Config(zone="z1")) as channel,
    ):
        near = Endpoint("127.0.0.1", running["near"].port, zone="z1")
        far = [Endpoint("127.0.0.1", running[name].port, zone="z2") for name in ("far", "far2", "far3", "far4")]
        manual.set([near, far[0]])
        assert set(share(channel, 40)) == {"near"}
        manual.set([near, *far])
        until(lambda: set(share(channel, 15)) == {"near", "far", "far2", "far3", "far4"})
        manual.set([near, far[0]])
        until(lambda: set(share(channel, 8)) == {"near"})
        running["near"].stop()
        until(lambda: _who_or_none(channel) == "far")
        assert set(share(channel, 20)) == {"far"}


def _who_or_none(channel: grpc.Channel) -> str | None:
    try:
        return who(channel)
    except grpc.RpcError:
        return None


def test_a_proxy_variable_does_not_switch_discovery_off(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would dial the proxy instead of asking the control plane."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with servers("a") as running, insecure_channel(manual.target) as channel:
        manual.set([running["a"].address])
        assert who(channel) == "a"


def test_authority_is_the_service_and_the_caller_may_choose_another(manual: Manual) -> None:
    """Never one server's address, never a list: proxies and certificates see a stable name."""
    seen: list[str] = []

    def look(context: grpc.ServicerContext) -> None:
        seen.append(context._rpc_event.call_details.host.decode())  # type: ignore[attr-defined]  # gRPC has no public word for it

    server = Server("a", behave=look)
    try:
        manual.set([server.address])
        with insecure_channel(manual.target) as channel:
            assert who(channel) == "a"
        with insecure_channel(manual.target, options=[("grpc.default_authority", "mine")]) as channel:
            assert who(channel) == "a"
        assert seen == [manual.target.removeprefix("manual:///"), "mine"]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: insecure_channel(""), "the target is empty"),
        (lambda: insecure_channel("manual:///"), "names nothing"),
        (lambda: aio.insecure_channel("consul:///x"), "scheme 'consul' is unknown"),
        (
            lambda: insecure_channel("manual:///x", options=[("grpc.service_config", "{")]),
            "must be a gRPC service config in JSON",
        ),
        (lambda: insecure_channel("manual:///x", options=[("grpc.ssl_target_name_override", "x")]), "sends plaintext"),
        (lambda: secure_channel("manual:///x", None), "secure_channel needs grpc.ChannelCredentials"),  # type: ignore[arg-type]
        (lambda: status("manual:///nobody"), "has no open channel in this process"),
    ],
)
def test_what_cannot_work_is_refused_at_once_in_one_sentence(call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    """Before anything was started, so nothing is left behind."""
    with pytest.raises(TargetError, match=sentence):
        call()


def test_a_bad_entry_is_refused_whole(manual: Manual) -> None:
    """The program is the one who can mend it; the set before stays."""
    manual.set(["127.0.0.1:1"])
    for bad in ("localhost:80", "127.0.0.1", "127.0.0.1:99999", "::1:80"):
        with pytest.raises(TargetError):
            manual.set([bad])
    with insecure_channel(manual.target):
        wait_until_synced(manual.target, DEADLINE)
        snapshot = status(manual.target).snapshot
    assert snapshot is not None
    assert len(snapshot) == 1


def test_our_channel_arguments_give_way_to_the_callers() -> None:
    """What is set for good reasons, and what is set only beside a keepalive; nothing of it overrules a choice."""
    ours = {"grpc.default_authority": "greeter", "grpc.enable_http_proxy": 0, "grpc.priority_failover_timeout_ms": 1000}
    _, options, lease = open_target("manual:///greeter", None, None, None)
    assert dict(options) == ours
    assert lease is not None
    lease.release()
    chosen = [("grpc.keepalive_time_ms", 5000), ("grpc.keepalive_timeout_ms", 2000), ("grpc.enable_http_proxy", 1)]
    _, options, lease = open_target("manual:///greeter", chosen, None, None)
    assert dict(options) == {**ours, **dict(chosen), "grpc.http2.ping_timeout_ms": 2000}
    assert len(options) == len(dict(options))
    assert lease is not None
    lease.release()


def test_a_server_that_fails_its_calls_is_taken_out_and_comes_back() -> None:
    """Whatever the status, since gRPC counts every call that was not OK (gRFC A50)."""
    failing = threading.Event()
    failing.set()

    def behave(context: grpc.ServicerContext) -> None:
        if failing.is_set():
            context.abort(grpc.StatusCode.INTERNAL, "out of order")

    bad = Server("bad", behave=behave)
    try:
        with servers("a", "b") as running:
            manual = Manual(uuid.uuid4().hex)
            manual.set([bad.address, *(server.address for server in running.values())])
            config = Config(outliers=Outliers(interval=0.1, min_requests=2, ejection=1.0, max_ejection=1.0))
            with insecure_channel(manual.target, config=config) as channel:
                until(lambda: _all_well(channel, 30) and bad.calls > 0)
                failing.clear()
                calls = bad.calls
                until(lambda: who(channel) == "bad" and bad.calls > calls)
    finally:
        bad.stop()


def _all_well(channel: grpc.Channel, calls: int) -> bool:
    """Whether so many calls in a row, of which round_robin would give each server a third, were answered."""
    try:
        for _ in range(calls):
            who(channel)
    except grpc.RpcError:
        return False
    return True
