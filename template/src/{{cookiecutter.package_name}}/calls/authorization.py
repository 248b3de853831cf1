"""Authorization by the names in the client's certificate, which TLS has verified before a call arrives.

A name is a DNS name or a URI, such as a SPIFFE ID, among the certificate's subject alternative names; the common name is
ignored (RFC 6125 section 6.4.4). Health checks are exempt: probes and clients need them.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool

from ..tls import TlsError
from .method_handlers import Layer

logger = logging.getLogger(__name__)

ALL = "*"
URI, DNS = "peer_uri", "peer_dns"
"""gRPC's names for the kinds of names in a certificate."""


class Authorization(Layer):
    """Checks every call. `allowed`: names that may call everything, or names by method.

    A method is `package.Service/Method`, `package.Service/*` or `*`. Only the most specific rule applies; a call without a rule is
    denied. A name that ends in `/*` matches all URIs with that prefix; a DNS name never matches a URI. Raises TlsError for a method that does not exist.
    """

    def __init__(self, allowed: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        rules = allowed if isinstance(allowed, Mapping) else {ALL: allowed}
        for method in rules:
            _check(method)
        self._rules = {method: frozenset(names) for method, names in rules.items()}

    async def enter(self, method: str, context: Any) -> Any:
        if reason := denied(method, self._names(method), context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
        return context

    def enter_thread(self, method: str, context: Any) -> None:
        if reason := denied(method, self._names(method), context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)

    def _names(self, method: str) -> frozenset[str]:
        """The names of the most specific rule."""
        service = method.rpartition("/")[0]
        return next((self._rules[rule] for rule in (method, f"{service}/*", ALL) if rule in self._rules), frozenset())


def denied(method: str, names: frozenset[str], context: Any) -> str:
    """Why the call is denied, which is also logged; empty if it is allowed."""
    own = list(identities(context))
    uris = {rule for rule in names if "://" in rule}
    for kind, name in own:
        if kind == URI and (name in uris or any(name.startswith(rule[:-1]) for rule in uris if rule.endswith("/*"))):
            return ""
        if kind == DNS and name in names - uris:
            return ""
    shown = [name for _, name in own] or ["a client without a name"]
    logger.warning("denied %s to %s at %s", method, " ".join(shown), context.peer())
    return f"{shown[0]} may not call {method}"


def identities(context: Any) -> Iterator[tuple[str, str]]:
    """The verified names of a caller, each with its kind, URIs first."""
    verified = context.auth_context()
    for kind in (URI, DNS):
        for name in verified.get(kind, ()):
            yield kind, name.decode(errors="replace")


def _check(method: str) -> None:
    service, slash, name = method.rpartition("/")
    with contextlib.suppress(KeyError):
        if method == ALL or (slash and name in {"*", *descriptor_pool.Default().FindServiceByName(service).methods_by_name}):
            return
    raise TlsError(f"TLS__ALLOWED_CLIENTS: '{method}' is not a method; write package.Service/Method, package.Service/* or *")
