"""secure_channel on real certificates: the name that counts is the target's, never a server's address."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from discovery import Manual, insecure_channel, secure_channel

from .servers import DEADLINE, unary

trustme = pytest.importorskip("trustme", reason="the TLS tests need trustme: pip install trustme")


@pytest.fixture
def manual() -> Manual:
    return Manual(f"greeter-{uuid.uuid4().hex[:8]}.team")


@pytest.fixture
def authority() -> object:
    return trustme.CA()


def credentials(authority: Any) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


@pytest.fixture
def server(manual: Manual, authority: Any) -> Iterator[str]:
    """A server whose certificate carries the target's name only."""
    certificate = authority.issue_cert(manual.target.removeprefix("manual:///"))
    made = grpc.server(ThreadPoolExecutor(4))
    who: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: b"secure")
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Who": who}),))
    key = certificate.private_key_pem.bytes()
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    port = made.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    made.start()
    yield f"127.0.0.1:{port}"
    made.stop(None)


def test_the_certificate_must_carry_the_targets_name(manual: Manual, authority: Any, server: str) -> None:
    """No pod's address need be in it."""
    with secure_channel(manual.target, credentials(authority)) as channel:
        manual.set([server])
        assert unary(channel)(b"", timeout=DEADLINE) == b"secure"


@pytest.mark.parametrize("wrong", ["name", "authority", "plaintext"])
def test_a_wrong_name_an_unknown_authority_and_plaintext_are_refused(
    manual: Manual, authority: Any, server: str, wrong: str
) -> None:
    """Unavailable, and nothing was sent."""
    other = Manual(f"other-{uuid.uuid4().hex[:8]}")
    for written in (manual, other):
        written.set([server])
    channel = {
        "name": lambda: secure_channel(other.target, credentials(authority)),
        "authority": lambda: secure_channel(manual.target, credentials(trustme.CA())),
        "plaintext": lambda: insecure_channel(manual.target),
    }[wrong]()
    with channel, pytest.raises(grpc.RpcError) as error:
        unary(channel)(b"", timeout=DEADLINE)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
