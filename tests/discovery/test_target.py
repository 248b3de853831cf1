"""target.py: the grammar, as a table and as a property."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from discovery.errors import TargetError
from discovery.target import GRPC_OWN, OURS, Target, parse

SCHEMES = [*OURS, *GRPC_OWN]
near = st.text(st.sampled_from(":/.,[]%?#@_-+ \t\n019aZ\u0661\u00e9\ud800")) | st.text()
"""Text of what the grammar gives a meaning, and any other."""


@pytest.mark.parametrize(
    ("text", "name", "namespace", "port", "authority"),
    [
        ("kubernetes:///svc", "svc", "", "", "svc"),
        ("kubernetes:///svc.ns", "svc", "ns", "", "svc.ns"),
        ("kubernetes:///svc.ns:50051", "svc", "ns", "50051", "svc.ns:50051"),
        ("kubernetes:///svc.ns:grpc", "svc", "ns", "grpc", "svc.ns"),
        ("kubernetes:///svc.ns.svc.cluster.local:grpc", "svc", "ns", "grpc", "svc.ns"),
        ("KUBERNETES:///svc.ns.svc", "svc", "ns", "", "svc.ns"),
        ("etcd:///greeter", "greeter", "", "", "greeter"),
        ("etcd:///team/greeter", "team/greeter", "", "", "team%2Fgreeter"),
        ("etcd:////team/greeter", "/team/greeter", "", "", "%2Fteam%2Fgreeter"),
        ("etcd:///%2Fgreeter", "/greeter", "", "", "%2Fgreeter"),
        ("manual:///größe", "größe", "", "", "gr%C3%B6%C3%9Fe"),
        ("manual:///a%2Fb%25", "a/b%", "", "", "a%2Fb%25"),
        ("manual:///a,b", "a,b", "", "", "a,b"),
        ("manual:///[a]:b@c", "[a]:b@c", "", "", "[a]:b@c"),
        ("dns-poll:///name.ns.svc.cluster.local.:80", "name.ns.svc.cluster.local.", "", "80", "name.ns.svc.cluster.local:80"),
        ("dns-poll:///_grpc._tcp.name", "_grpc._tcp.name", "", "", "_grpc._tcp.name"),
        ("dns-poll:///[::1]:80", "::1", "", "80", "[::1]:80"),
        ("static:///10.0.0.1:80,[::1]:81", "10.0.0.1:80,[::1]:81", "", "", "10.0.0.1:80"),
        ("manual:///greeter", "greeter", "", "", "greeter"),
    ],
)
def test_our_targets(text: str, name: str, namespace: str, port: str, authority: str) -> None:
    """Every accepted form, and what stands in :authority."""
    target = parse(text)
    assert (target.name, target.namespace, target.port, target.authority, str(target)) == (name, namespace, port, authority, text)
    assert target.ours


def test_authority_is_encoded_as_grpc_encodes_it_for_its_own_targets() -> None:
    """Every printable ASCII character and some others, as a server sees them from gRPC's own xds:/// channel."""
    name = "".join(map(chr, range(0x21, 0x7F))).translate(dict.fromkeys(map(ord, "?#"))) + "größe\u4e2d"
    done = subprocess.run(
        [sys.executable, "-c", _SENT_BY_GRPC, name],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split() == [Target("", "manual", name).authority], done.stderr


_SENT_BY_GRPC = """
import json, os, sys
from urllib.parse import quote
import grpc
from tests.discovery.external_plane import ExternalPlane
from tests.discovery.servers import Server, unary

server = Server("a", behave=lambda context: print(context._rpc_event.call_details.host.decode(), flush=True))
plane = ExternalPlane(sys.argv[1], server.address)
plaintext = {"server_uri": plane.uri, "channel_creds": [{"type": "insecure"}]}
os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps({"xds_servers": [plaintext], "node": {"id": "test"}})
unary(grpc.insecure_channel("xds:///" + quote(sys.argv[1], safe="")))(b"", timeout=20)
os._exit(0)
"""


@pytest.mark.parametrize(
    "text", ["localhost:50051", "name", "10.0.0.1:80", "dns:///x:80", "dns:x:80", "unix:/tmp/s", "xds:///x", "ipv6:[::1]:80"]
)
def test_what_grpc_knows_keeps_grpcs_meaning(text: str) -> None:
    """Replacing the call in existing code never changes what a target does."""
    assert not parse(text).ours


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the target is empty"),
        ("   ", "the target is empty"),
        ("kubernetes:///", "names nothing"),
        ("kubernetes:///svc:", "after the colon there must be a number from 1 to 65535 or the name of a port"),
        ("kubernetes:///svc:0", "not '0'"),
        ("kubernetes:///svc:65536", "not '65536'"),
        ("kubernetes:///svc:UPPER", "not 'UPPER'"),
        ("kubernetes:///svc.ns.pod", "only 'svc' and the cluster's suffix"),
        ("kubernetes:///Svc", "'Svc' is no service name"),
        ("kubernetes:///svc..svc", "'' is no namespace name"),
        ("kubernetes://svc.ns", "three slashes"),
        ("kubernetes:///svc?zone=a", "'?' and '#' have no meaning here"),
        ("etcd:////greeter/", "must not end with '/'"),
        ("etcd:////", "must not end with '/'"),
        ("etcd://///greeter", "nor hold '//'"),
        ("etcd:///team//greeter", "nor hold '//'"),
        ("manual:////greeter", "must not begin or end with '/'"),
        ("dns-poll:///name:grpc", "a number from 1 to 65535, not 'grpc'"),
        ("dns-poll:///a..b:80", "is no DNS name"),
        ("dns-poll:///[::1]", "is not host:port"),
        ("static:///127.0.0.1", "is not host:port"),
        ("static:///127.0.0.1:80,", "is not host:port"),
        ("static:///::1:80", "in brackets"),
        ("consul:///x", "scheme 'consul' is unknown; there are "),
        ("kubernetes:///a b", "holds a space"),
        ("etcd:///a%0Ab", "holds a space"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(text: str, sentence: str) -> None:
    """The sentence names the target and what to write instead."""
    with pytest.raises(TargetError) as error:
        parse(text)
    assert sentence in str(error.value)


@given(
    st.one_of(
        near,
        st.builds("{}:{}{}".format, st.sampled_from(SCHEMES), st.sampled_from(["", "/", "//", "///", "////"]), near),
    )
)
@example("etcd:///%0A")
@example("manual:///a%20b")
def test_any_text_is_a_target_or_a_target_error(text: str) -> None:
    """Nothing else is raised, and what is accepted reads the same again."""
    try:
        target = parse(text)
    except TargetError:
        return
    assert isinstance(target, Target)
    assert parse(str(target)) == target
    assert target.authority.isascii()
    assert target.authority.isprintable()
    assert not set(target.authority) & set(" \t\n")
