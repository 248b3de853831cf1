"""The server on a real port: its service, its health, what it offers to tools, its limits."""

import contextlib
import socket

import grpc
import pytest

from .calls import SERVING, greet, health, inspect, reflect, watch
from .processes import DEADLINE, Process, port_of, servers


def test_health_reflection_and_channelz_are_there_and_can_be_switched_off() -> None:
    """Health per service and overall; the two others by one setting."""
    for offered in (True, False):
        with servers("a", SERVER__REFLECTION=str(offered)) as running, grpc.insecure_channel(running["a"][1]) as channel:
            for name in ("", "greeter.v1.GreeterService", "liveness"):
                assert health(channel, name) == SERVING
            if offered:
                assert reflect(channel) >= {"greeter.v1.GreeterService", "grpc.health.v1.Health"}
                assert inspect(channel).server
                continue
            for call in (reflect, inspect):
                with pytest.raises(grpc.RpcError) as error:
                    call(channel)
                assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_said_in_a_sentence() -> None:
    """Port reuse is off: a second server would silently take half of the calls."""
    with servers("a") as running:
        port = running["a"][1].rpartition(":")[2]
        with Process("server", SERVER__HOST="127.0.0.1", SERVER__PORT=port, GRPC_VERBOSITY="NONE") as second:
            assert second.ended() == 1
            assert f"cannot listen on GREETER__SERVER__HOST=127.0.0.1 with GREETER__SERVER__PORT={port}" in second.lines[-1]
            assert not any("Traceback" in line for line in second.lines)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("host", ["::", "[::]", "::1", "localhost"])
def test_an_ipv6_address_is_written_with_brackets_or_without(host: str) -> None:
    """gRPC itself takes only the first form."""
    own = "localhost" if host == "localhost" else "[::1]"
    with servers("a", SERVER__HOST=host) as running, grpc.insecure_channel(f"{own}:{port_of(running['a'][0])}") as channel:
        assert health(channel) == SERVING


def test_too_large_a_message_and_too_many_calls_are_refused() -> None:
    """By the limits of the settings, with the code that says so."""
    limits = {"SERVER__MAX_MESSAGE_BYTES": "1000", "SERVER__MAX_CONCURRENT_RPCS": "1"}
    with servers("a", **limits) as running, grpc.insecure_channel(running["a"][1]) as channel:
        with pytest.raises(grpc.RpcError) as error:
            greet(channel, "x" * 2000)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream = watch(channel)
        next(stream)
        with pytest.raises(grpc.RpcError) as error:
            greet(channel)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Its health is not counted in: who is busy is not to be restarted.
        assert health(channel) == SERVING
        running["a"][0].wait_for(r"concurrency limit reached: 1 calls \(GREETER__SERVER__MAX_CONCURRENT_RPCS")
        stream.cancel()
        with contextlib.suppress(grpc.RpcError):
            while True:  # until the server knows of it
                next(stream)


def test_too_much_metadata_is_refused_and_the_connection_goes_on() -> None:
    """By the limit that gRPC has been given."""
    with (
        servers("a", GRPC_OPTIONS='{"grpc.max_metadata_size": 1000, "grpc.absolute_max_metadata_size": 2000}') as running,
        grpc.insecure_channel(running["a"][1]) as channel,
    ):
        with pytest.raises(grpc.RpcError) as error:
            greet(channel, metadata=(("heavy", "x" * 3000),))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert greet(channel) == "a"


def test_connections_above_the_limit_are_closed_at_once() -> None:
    """And those there are go on."""
    with servers("a", GRPC_OPTIONS='{"grpc.max_allowed_incoming_connections": 2}') as running, contextlib.ExitStack() as stack:
        host, _, port = running["a"][1].rpartition(":")
        with grpc.insecure_channel(running["a"][1]) as channel:
            greet(channel)
            made = [stack.enter_context(socket.create_connection((host, int(port)), DEADLINE)) for _ in range(5)]
            ends = [connection.recv(1) for connection in made]  # a server speaks first, unless it closes
            assert ends.count(b"") == 4
            assert greet(channel) == "a"
