"""Servers that register themselves in a real etcd: listed while they serve, gone before they stop."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery.testing import EtcdServer

from .processes import load_generator, refused, servers


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "data")
    server.start()
    yield server
    server.stop()


def settings(etcd: EtcdServer, **others: str) -> dict[str, str]:
    """A server's that registers itself, in short times."""
    return {
        "REGISTRATION__TARGET": "etcd:///greeter",
        "REGISTRATION__ADDRESS": "127.0.0.1",
        "DISCOVERY__ETCD__ENDPOINTS": json.dumps([etcd.address]),
        "SERVER__DRAIN__WAIT": "300ms",
        "SERVER__DRAIN__GRACE": "5s",
        **others,
    }


def listed(etcd: EtcdServer) -> dict[str, Any]:
    """Key and value of every entry."""
    with etcd.client() as client:
        return {entry.key.decode(): json.loads(entry.value or b"") for entry in client.range(b"\0", b"\0")[1]}


@pytest.mark.etcd
def test_a_server_is_listed_while_it_serves_and_gone_before_it_drains(etcd: EtcdServer) -> None:
    """Under its address, zone and weight; after SIGTERM it still serves while its entry is gone."""
    wishes = settings(
        etcd, DISCOVERY__ZONE="zone-a", REGISTRATION__WEIGHT="3", SERVER__DRAIN__WAIT="30s", SERVER__DRAIN__GRACE="0s"
    )
    with servers("a", **wishes) as running:
        process, address = running["a"]
        process.wait_for("registered as")
        value = {"Op": 0, "Addr": address, "Metadata": {"zone": "zone-a", "weight": 3}}
        assert listed(etcd) == {f"greeter/{address}": value}
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        assert listed(etcd) == {}
        process.send(signal.SIGTERM)
        assert process.ended() == 128 + signal.SIGTERM


@pytest.mark.etcd
def test_the_client_finds_servers_by_their_registration_and_follows_them(etcd: EtcdServer) -> None:
    """Both commands, as they are run, with one etcd between them."""
    wishes = settings(etcd)
    with load_generator(CLIENT__TARGET="etcd:///greeter", **wishes) as client:
        with servers("a", **wishes):
            client.wait_for(r"served by a=\d+")
            with servers("b", **wishes) as second:
                client.wait_for(r"served by a=\d+ b=\d+")
                process, _ = second["b"]
                process.send(signal.SIGTERM)
                assert process.ended() == 0
        client.send(signal.SIGTERM)
        assert client.ended() == 0


@pytest.mark.etcd
def test_a_drain_does_not_wait_for_an_etcd_that_hangs(etcd: EtcdServer) -> None:
    """The lease will end the entry; the pod's time is for its calls."""
    with servers("a", **settings(etcd)) as running:
        process, _ = running["a"]
        process.wait_for("registered as")
        etcd.freeze()
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        process.wait_for("stopped")
        assert process.ended() == 0


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"REGISTRATION__ADDRESS": "0.0.0.0"}, "settings: the address '0.0.0.0:"),
        ({"REGISTRATION__ADDRESS": "greeter"}, "settings: the address 'greeter:"),
        ({"REGISTRATION__TARGET": "dns-poll:///greeter"}, "settings: target 'dns-poll:///greeter' takes no registration"),
        (
            {"REGISTRATION__ADDRESS": ""},
            "settings: GREETER__REGISTRATION__TARGET=etcd:///greeter with GREETER__REGISTRATION__ADDRESS empty",
        ),
        ({"REGISTRATION__WEIGHT": "0"}, "settings: GREETER__REGISTRATION__WEIGHT='0' is invalid"),
        ({"DISCOVERY__ETCD__ENDPOINTS": '["nowhere"]'}, "settings: the etcd endpoint 'nowhere' cannot be used"),
        ({"DISCOVERY__ETCD__USER": "root"}, "settings: GREETER__DISCOVERY__ETCD__USER=... needs password=..."),
    ],
)
def test_what_cannot_be_registered_is_refused_in_a_sentence(wishes: dict[str, str], sentence: str) -> None:
    """Status 2, before anything is served to others."""
    base = {"REGISTRATION__TARGET": "etcd:///greeter", "REGISTRATION__ADDRESS": "127.0.0.1"}
    lines = refused("server", **{**base, **wishes})
    assert any(line.startswith(sentence) for line in lines), lines
