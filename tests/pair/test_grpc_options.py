"""gRPC's own options: one map for those that have no setting, each name one of the installed library's; and addresses."""

import json
import threading

import grpc
import pytest

from greeter.client.channel import channel_options
from greeter.server.options import server_options
from greeter.settings import Settings
from greeter.settings.validation import contradictions

from .calls import SERVING, greet, health
from .processes import DEADLINE, load_generator, servers


@pytest.mark.parametrize("host", ["::", "[::]", "::1", "[::1]", "0.0.0.0", "127.0.0.1", "localhost"])
def test_a_server_listens_on_any_address(host: str) -> None:
    """IPv6 with and without the brackets that it needs in front of a port."""
    with servers("a", SERVER__HOST=host) as running:
        address = running["a"][1].replace("127.0.0.1", "[::1]" if ":" in host else "127.0.0.1")
        with grpc.insecure_channel(address) as channel:
            assert greet(channel) == "a"


def test_the_load_generators_health_listens_on_ipv6() -> None:
    """As the server does."""
    with servers("a") as running, load_generator(running["a"][1], CLIENT__HEALTH_HOST="::1") as client:
        port = client.wait_for(r"health on port (\d+)")[1]
        with grpc.insecure_channel(f"[::1]:{port}") as channel:
            assert health(channel, "liveness") == SERVING


@pytest.mark.parametrize("setting", [{}, {"SERVER__MAX_MESSAGE_BYTES": "1000"}])
def test_the_servers_options_take_precedence(setting: dict[str, str]) -> None:
    """Over its defaults, and over a setting of the same meaning."""
    given = {"GRPC_OPTIONS": json.dumps({"grpc.max_receive_message_length": 100})}
    with servers("a", **given, **setting) as running, grpc.insecure_channel(running["a"][1]) as channel:
        assert greet(channel) == "a"
        with pytest.raises(grpc.RpcError) as error:
            greet(channel, "x" * 200)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_clients_options_take_precedence() -> None:
    """On discovery's targets, too."""
    given = {"GRPC_OPTIONS": json.dumps({"grpc.max_receive_message_length": 1})}
    with servers("a") as running, load_generator(running["a"][1], **given) as client:
        client.wait_for("calls fail: RESOURCE_EXHAUSTED: .*larger than max")


def test_every_option_that_the_programs_set_is_one_of_grpcs() -> None:
    """gRPC ignores others, even where a setting depends on it."""
    options = {**dict(server_options(Settings())), **channel_options("dns:///a:1", True)}
    assert len(options) >= 20
    del options["grpc.service_config"]
    assert list(contradictions(Settings(grpc_options=options))) == []


def test_a_clients_pings_are_allowed_as_often_as_the_setting_says() -> None:
    """While no call is in progress, where gRPC's own limit is one in five minutes."""
    often = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    left, states = threading.Event(), list[grpc.ChannelConnectivity]()
    with (
        servers("patient", SERVER__KEEPALIVE__MIN_PING_INTERVAL="100ms") as one,
        servers("strict") as other,
        grpc.insecure_channel(one["patient"][1], options=often) as first,
        grpc.insecure_channel(other["strict"][1], options=often) as second,
    ):
        assert greet(first) == "patient"
        first.subscribe(states.append)
        assert greet(second) == "strict"
        second.subscribe(lambda state: left.set() if state is not grpc.ChannelConnectivity.READY else None)
        assert left.wait(DEADLINE)
        assert set(states) <= {grpc.ChannelConnectivity.READY}
