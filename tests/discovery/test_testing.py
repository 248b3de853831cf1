"""discovery.testing: servers that can be killed, and registries on loopback, as a user's tests take them."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import discovery
from discovery import testing

from .servers import DEADLINE, streaming, unary, until
from .tls_servers import trustme

assert trustme


def name_of(channel: grpc.Channel) -> str:
    """Who answers one call, however long it has to wait for a server."""
    return str(unary(channel)(b"", timeout=DEADLINE, wait_for_ready=True).decode())


def share(channel: grpc.Channel, calls: int = 30) -> Counter[str]:
    """Who answers how many calls."""
    return Counter(name_of(channel) for _ in range(calls))


@pytest.fixture(scope="module")
def servers() -> Iterator[list[testing.BackendProcess]]:
    """Three processes; a test leaves them running."""
    with testing.backends(3) as started:
        yield started


@pytest.fixture
def channel(servers: list[testing.BackendProcess]) -> Iterator[grpc.Channel]:
    """One that knows all three."""
    registry = discovery.Manual("testing")
    registry.set(server.address for server in servers)
    options = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100))
    with discovery.insecure_channel(registry.target, options) as opened:
        until(lambda: len(share(opened)) == 3)
        yield opened


def test_backends_answer_with_their_names_and_count_calls(servers: list[testing.BackendProcess], channel: grpc.Channel) -> None:
    """Each has a name of its own; health does not count as a call."""
    before = [server.calls for server in servers]
    assert share(channel, 30) == {"a": 10, "b": 10, "c": 10}
    assert [server.calls - known for server, known in zip(servers, before, strict=True)] == [10, 10, 10]


async def test_an_aio_channel_calls_them(servers: list[testing.BackendProcess]) -> None:
    """Unary and streaming."""
    async with discovery.aio.insecure_channel(f"static:///{servers[0].address}") as opened:
        assert await unary(opened)(b"", timeout=DEADLINE) == b"a"
        stream = streaming(opened)(b"", timeout=DEADLINE)
        assert [await stream.read() for _ in range(3)] == [b"a"] * 3
        stream.cancel()
        await asyncio.sleep(0)


def test_one_that_is_killed_comes_back_on_its_port(servers: list[testing.BackendProcess], channel: grpc.Channel) -> None:
    """A killed backend refuses connections; restarted, it has the same address and goes on counting."""
    address, calls = servers[0].address, servers[0].calls
    servers[0].kill()
    until(lambda: share(channel).keys() == {"b", "c"})
    assert servers[0].calls >= calls
    servers[0].restart()
    assert servers[0].address == address
    until(lambda: len(share(channel)) == 3)


def test_one_that_is_frozen_answers_nothing_until_it_is_thawed(servers: list[testing.BackendProcess]) -> None:
    """Its connections stand, a call ends at its deadline, and one after the thaw is answered."""
    with discovery.insecure_channel(f"static:///{servers[1].address}") as opened:
        assert name_of(opened) == "b"
        servers[1].freeze()
        try:
            with pytest.raises(grpc.RpcError) as caught:
                unary(opened)(b"", timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            servers[1].thaw()
        assert name_of(opened) == "b"


@pytest.mark.parametrize("processes", [True, False])
def test_one_that_drains_says_so_and_lets_calls_in_flight_end(processes: bool) -> None:
    """The health watch moves clients away first; a call that is being handled is answered."""
    with testing.backends(2, processes=processes) as [one, two]:
        with discovery.insecure_channel(f"static:///{one.address},{two.address}") as opened:
            until(lambda: len(share(opened, 10)) == 2)
            one.slow(0.5)
            before = one.calls
            waiting = [unary(opened).future(b"", timeout=DEADLINE) for _ in range(2)]
            until(lambda: one.calls > before)
            one.drain(wait=30.0 if processes else 0.5)
            until(lambda: share(opened, 10).keys() == {"b"})
            assert {call.result(DEADLINE) for call in waiting} == {b"a", b"b"}
        if processes:
            return
        one.join(DEADLINE)
        with grpc.insecure_channel(one.address) as plain, pytest.raises(grpc.RpcError):
            unary(plain)(b"", timeout=DEADLINE)
        one.slow(0)
        one.restart()
        with grpc.insecure_channel(one.address) as plain:
            assert name_of(plain) == "a"


def test_one_that_drains_ends(servers: list[testing.BackendProcess]) -> None:
    """A drained process is gone, and serves again after a restart."""
    servers[2].drain(wait=0)
    servers[2].join(DEADLINE)
    servers[2].restart()
    with grpc.insecure_channel(servers[2].address) as plain:
        assert name_of(plain) == "c"


def test_one_fails_its_calls_until_it_is_told_otherwise() -> None:
    """With the status that the test chose, for streams, too."""
    with testing.backends(["x"], processes=False) as [server], grpc.insecure_channel(server.address) as plain:
        server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED)
        for method in (unary(plain), streaming(plain)):
            with pytest.raises(grpc.RpcError) as caught:
                list(method(b"", timeout=DEADLINE))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.fail(None)
        assert name_of(plain) == "x"
        assert server.calls == 3


def greet(server: grpc.Server, name: str) -> None:
    """Services of a user's own."""
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: request + b" from " + name.encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("user.Greeter", {"Greet": handler}),))


@pytest.mark.parametrize("processes", [True, False])
def test_a_user_registers_services(processes: bool) -> None:
    """In processes, and in the test's own."""
    with testing.backends(1, greet, processes=processes) as [server], grpc.insecure_channel(server.address) as plain:
        call: Any = plain.unary_unary("/user.Greeter/Greet")
        assert call(b"hello", timeout=DEADLINE, wait_for_ready=True) == b"hello from a"
        assert server.calls == 1


def test_services_that_a_process_cannot_import_are_refused() -> None:
    """Before anything is started, with the way out."""
    with pytest.raises(ValueError, match="processes=False"), testing.backends(1, lambda server, name: None):
        pass


def broken(server: grpc.Server, name: str) -> None:
    """Services that raise."""
    raise LookupError(name)


def test_a_backend_that_does_not_start_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Its traceback is on the test's output."""
    with pytest.raises(RuntimeError, match="'a' did not start"), testing.backends(1, broken):
        pass
    assert "LookupError: a" in capfd.readouterr().err


def test_processes_end_with_the_one_that_started_them() -> None:
    """Even if it is killed and cleans nothing up."""
    code = (
        "import os, signal\nfrom discovery import testing\n"
        "with testing.backends(1) as [server]:\n"
        "    print(server.address, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(discovery.__file__).parents[1]
    )
    with grpc.insecure_channel(done.stdout.strip()) as plain:

        def gone() -> bool:
            try:
                unary(plain)(b"", timeout=DEADLINE)
            except grpc.RpcError:
                return True
            return False

        until(gone)


@pytest.mark.etcd
def ports(target: str) -> list[int]:
    """Those that were sent to gRPC last."""
    return sorted(endpoint.port for endpoint in (discovery.status(target).snapshot or discovery.Snapshot()).endpoints)


def test_etcd_lists_backends() -> None:
    """What is set is called, what is set later too, and it comes back with its data."""
    with testing.etcd() as registry, testing.backends(2, processes=False) as [one, two]:
        registry.set("greeter", [one.address])
        with discovery.insecure_channel("etcd:///greeter", config=registry.config) as opened:
            assert name_of(opened) == "a"
            registry.set("greeter", [two.address])
            until(lambda: ports("etcd:///greeter") == [two.port])  # put and revoked one after the other
            registry.stop()
            until(lambda: discovery.status("etcd:///greeter").state == "stale")
            assert name_of(opened) == "b"
            registry.start()
            registry.set("greeter", [one.address])
            until(lambda: name_of(opened) == "a")


def test_a_dns_server_lists_backends() -> None:
    """By SRV records, ports and all; it fails, freezes, and stops as it is told."""
    pytest.importorskip("dnslib")
    with testing.dns_server() as registry, testing.backends(2, processes=False) as [one, two]:
        registry.set("greeter.test", [one.address])
        target = "dns-poll:///greeter.test."
        with discovery.insecure_channel(target, config=registry.config) as opened:
            assert name_of(opened) == "a"
            registry.set("greeter.test.", [two.address])
            until(lambda: name_of(opened) == "b")
            faults: list[tuple[Callable[[], None], Callable[[], None]]] = [
                (lambda: registry.fail("SERVFAIL"), lambda: registry.fail("")),
                (registry.freeze, registry.thaw),
                (registry.stop, registry.start),
            ]
            for begin, end in faults:
                begin()
                until(lambda: discovery.status(target).state == "stale")
                end()
                until(lambda: discovery.status(target).state == "synced")
        one_port = f"dns-poll:///greeter.test.:{two.port}"
        with discovery.insecure_channel(one_port, config=registry.config) as opened:
            assert name_of(opened) == "b"


@pytest.mark.parametrize("tls", [False, True])
def test_an_api_server_lists_backends(tls: bool) -> None:
    """EndpointSlices over HTTP and TLS; it fails, freezes, forgets, and stops as it is told."""
    pytest.importorskip("kubernetes")
    with testing.api_server(tls=tls) as registry, testing.backends(2, processes=False) as [one, two]:
        registry.set("greeter", [one.address])
        target = "kubernetes:///greeter:grpc"
        with discovery.insecure_channel(target, config=registry.config) as opened:
            assert name_of(opened) == "a"
            registry.set("greeter", [two.address])
            until(lambda: name_of(opened) == "b")
            faults: list[tuple[Callable[[], None], Callable[[], None]]] = [
                (lambda: registry.fail(503), lambda: registry.fail(0)),
                (registry.stop, registry.start),
            ]
            for begin, end in faults:
                begin()
                until(lambda: discovery.status(target).state == "stale")
                assert name_of(opened) == "b"
                end()
                until(lambda: discovery.status(target).state == "synced")
            registry.compact()
            registry.set("greeter", [one.address])
            until(lambda: name_of(opened) == "a")
            assert {"watch" in path for path in registry.requests} == {True, False}


def test_an_api_server_that_is_frozen_is_noticed() -> None:
    """A watch without bookmarks goes stale; once it is thawed, what has changed is told."""
    pytest.importorskip("kubernetes")
    with testing.api_server() as registry, testing.backends(2, processes=False) as [one, two]:
        registry.bookmarks = 0.1
        registry.set("greeter", [one.address])
        config = discovery.Config(kubernetes=registry.settings(silence=1.0, timeout=1.0))
        with discovery.insecure_channel("kubernetes:///greeter", config=config) as opened:
            assert name_of(opened) == "a"
            registry.freeze()
            registry.set("greeter", [two.address])
            until(lambda: discovery.status("kubernetes:///greeter").state == "stale")
            assert name_of(opened) == "a"
            registry.thaw()
            until(lambda: name_of(opened) == "b")


def test_an_api_server_refuses_a_wrong_token() -> None:
    """As after a rotation of credentials."""
    pytest.importorskip("kubernetes")
    with testing.api_server() as registry:
        registry.token = "another"
        with discovery.insecure_channel("kubernetes:///greeter", config=registry.config):
            until(lambda: "401" in (discovery.status("kubernetes:///greeter").last_error or ""))


@pytest.fixture
def called(servers: list[testing.BackendProcess]) -> Iterator[grpc.Channel]:
    """A connected channel, with a retry policy."""
    retries = '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    with discovery.insecure_channel(f"static:///{servers[0].address}", [("grpc.service_config", retries)]) as opened:
        name_of(opened)
        yield opened


def code_of(channel: grpc.Channel, **keywords: Any) -> grpc.StatusCode:
    """What one call ends with."""
    try:
        unary(channel)(b"", timeout=DEADLINE, **keywords)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_calls_are_aborted_while_the_block_runs(servers: list[testing.BackendProcess], called: grpc.Channel) -> None:
    """From its first call to its last, above the retries; no server sees them, and the first call after it succeeds."""
    before = servers[0].calls
    for _ in range(200):
        with testing.faults(called, abort=grpc.StatusCode.UNAVAILABLE):
            assert code_of(called) is grpc.StatusCode.UNAVAILABLE
        assert code_of(called) is grpc.StatusCode.OK
    assert servers[0].calls == before + 200


def test_some_calls_are_aborted(called: grpc.Channel) -> None:
    """Thirty of a hundred, more or less."""
    with testing.faults(called, abort=grpc.StatusCode.DATA_LOSS, percent=30):
        codes = Counter(code_of(called) for _ in range(300))
    assert codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.DATA_LOSS}
    assert 45 <= codes[grpc.StatusCode.DATA_LOSS] <= 150


def test_calls_are_delayed(called: grpc.Channel) -> None:
    """A call whose deadline is shorter than the delay does not get to a server."""
    with testing.faults(called, delay=30.0):
        with pytest.raises(grpc.RpcError) as caught:
            unary(called)(b"", timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_only_calls_that_ask_for_it_have_a_fault(called: grpc.Channel) -> None:
    """By their metadata."""
    with testing.faults(called, by_metadata=True):
        asking = (("x-envoy-fault-abort-grpc-request", str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])),)
        assert code_of(called, metadata=asking) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code_of(called) is grpc.StatusCode.OK


def test_blocks_are_nested(called: grpc.Channel) -> None:
    """Each ends its own fault only."""
    with testing.faults(called, by_metadata=True):
        with testing.faults(called, abort=grpc.StatusCode.ABORTED):
            assert code_of(called) is grpc.StatusCode.ABORTED
        assert code_of(called) is grpc.StatusCode.OK
        asking = (("x-envoy-fault-abort-grpc-request", "8"),)
        assert code_of(called, metadata=asking) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_all_channels_of_a_target_have_them(servers: list[testing.BackendProcess]) -> None:
    """Sync and aio, with a set that changes meanwhile; the connection stays."""
    registry = discovery.Manual("faults")
    registry.set([servers[0].address])
    with discovery.insecure_channel(registry.target) as opened:
        async with discovery.aio.insecure_channel(registry.target) as other:
            assert name_of(opened) == "a"
            assert await unary(other)(b"", timeout=DEADLINE) == b"a"
            with testing.faults(registry.target, abort=grpc.StatusCode.UNKNOWN):
                registry.set(server.address for server in servers)
                assert code_of(opened) is grpc.StatusCode.UNKNOWN
                with pytest.raises(grpc.aio.AioRpcError):
                    await unary(other)(b"", timeout=DEADLINE)
            assert code_of(opened) is grpc.StatusCode.OK
            intercepted = grpc.intercept_channel(opened, Nothing())
            with testing.faults(intercepted, abort=grpc.StatusCode.UNKNOWN):
                assert code_of(opened) is grpc.StatusCode.UNKNOWN
            until(lambda: len(share(opened)) == 3)


class Nothing(grpc.UnaryUnaryClientInterceptor):
    """An interceptor."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)


def test_faults_before_the_first_call_of_a_channel(servers: list[testing.BackendProcess]) -> None:
    """A channel that has not connected yet has them with its first call."""
    with discovery.insecure_channel(f"static:///{servers[1].address}") as opened:
        with testing.faults(opened, abort=grpc.StatusCode.UNAVAILABLE):
            assert code_of(opened) is grpc.StatusCode.UNAVAILABLE
        assert name_of(opened) == "b"


@pytest.mark.parametrize(
    "keywords",
    [{}, {"abort": grpc.StatusCode.OK}, {"delay": -1.0}, {"delay": 1.0, "percent": 0.0}, {"delay": 1.0, "by_metadata": True}],
)
def test_faults_that_inject_nothing_are_refused(called: grpc.Channel, keywords: dict[str, Any]) -> None:
    """With what can be passed."""
    with pytest.raises(ValueError, match="abort="), testing.faults(called, **keywords):
        pass


def test_faults_are_for_channels_of_this_library() -> None:
    """gRPC's own channels and targets that are not open have none."""
    with grpc.insecure_channel("127.0.0.1:1") as plain, discovery.insecure_channel("127.0.0.1:1") as dns:
        for given in (plain, dns, "static:///127.0.0.1:1"):
            with pytest.raises(discovery.TargetError), testing.faults(given, delay=1.0):
                pass
