"""Which names in a client's certificate satisfy which rule."""

from collections.abc import Sequence
from typing import Any

import pytest

from greeter.discovery.calls.authorization import Authorization

METHOD = "grpc.health.v1.Health/Check"
URI = "spiffe://cluster.local/ns/prod/sa/orders"


class Caller:
    """The part of a call's context that is asked, as grpc.aio has it after a handshake."""

    def __init__(self, uris: Sequence[str], names: Sequence[str]) -> None:
        self._verified = {"peer_uri": [uri.encode() for uri in uris], "peer_dns": [name.encode() for name in names]}

    def auth_context(self) -> dict[str, Any]:
        return {kind: found for kind, found in self._verified.items() if found}

    def peer(self) -> str:
        return "ipv4:10.0.0.1:1"


@pytest.mark.parametrize(
    ("rules", "uris", "names", "may"),
    [
        ([URI], [URI], [], True),
        ([URI], [], [URI], False),  # a DNS name that reads like the URI
        (["orders"], [], ["orders"], True),
        (["orders"], ["orders"], [], False),  # a URI without a scheme that reads like the DNS name
        (["Orders"], [], ["oRDERS"], True),
        ([URI], [URI.upper()], [], False),
        ([URI], [URI + "/"], [], False),
        ([URI, URI], [URI, URI], [], True),
        (["orders"], [], ["billing", "orders"], True),
        (["orders"], [], ["orders.evil.example"], False),
        (["orders"], [], [""], False),
        (["orders"], [], ["*"], False),
        (["orders"], [], [], False),
        (["spiffe://cluster.local/ns/prod/*"], [URI], [], True),
        (["spiffe://cluster.local/ns/prod/*"], ["spiffe://cluster.local/ns/prod/"], [], False),
        (["spiffe://cluster.local/ns/prod/*"], ["spiffe://cluster.local/ns/production/sa/x"], [], False),
        (["spiffe://cluster.local/ns/prod/*"], ["spiffe://cluster.local/ns/prod/../admin"], [], False),
        (["spiffe://cluster.local/ns/prod/*"], [], [URI], False),
        (["orders"], ["spiffe://cluster.local/ns/prod/*"], [], False),
        ([], [URI], ["orders"], False),
        ({METHOD: ["orders"]}, [], ["orders"], True),
        ({"grpc.health.v1.Health/*": ["orders"], "*": ["billing"]}, [], ["billing"], False),  # only the most specific rule
        ({METHOD: [], "*": ["orders"]}, [], ["orders"], False),
        ({"grpc.health.v1.Health/Watch": ["orders"]}, [], ["orders"], False),  # no rule for the method
        ({"*": ["orders"]}, [], ["orders"], True),
    ],
)
def test_names_are_compared_with_names_of_the_same_type(rules: Any, uris: list[str], names: list[str], may: bool) -> None:
    """URIs as they are, DNS names without regard to case."""
    assert (Authorization(rules).denied(METHOD, Caller(uris, names)) == "") is may


def test_a_denied_caller_reads_its_own_name_and_the_method() -> None:
    """And not who may call it."""
    assert Authorization(["orders"]).denied(METHOD, Caller([], ["billing"])) == f"billing may not call {METHOD}"
    assert Authorization(["orders"]).denied(METHOD, Caller([], [])) == f"a client without a name may not call {METHOD}"


@pytest.mark.parametrize(
    "method", ["grpc.health.v1.Health/Chek", "grpc.health.v1.Helth/*", "Check", "grpc.health.v1.Health", "/"]
)
def test_a_rule_for_a_method_that_does_not_exist_is_refused(method: str) -> None:
    """It would deny every call, or protect nothing."""
    with pytest.raises(ValueError, match="is not a method"):
        Authorization({method: ["orders"]})
