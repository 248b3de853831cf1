"""Who may call what: by the names in the client's certificate, which TLS has verified before any call arrives.

A name is a DNS name or a URI, such as SPIFFE's, among the certificate's subject alternative names; the common name does not
count (RFC 6125 section 6.4.4). Health is not asked about: probes and clients' monitors need it.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool

from .method_handlers import Wrapping, behavior_of, rebuilt

logger = logging.getLogger(__name__)

ALL = "*"

Names = frozenset[str]


class RuleError(Exception):
    """A rule that can never fit; the text names it and what to write."""


class Authorization:
    """Rules that are asked at every call. `allowed`: names that may call everything, or names by method.

    A method is `package.Service/Method`, `package.Service/*` or `*`; the closest alone counts, and what none fits is
    denied. A name that ends in `/*` fits all URIs that begin like it. Raises RuleError for a method that no service has.
    """

    def __init__(self, allowed: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        rules = allowed if isinstance(allowed, Mapping) else {ALL: allowed}
        for method in rules:
            _check(method)
        self._rules = {method: frozenset(names) for method, names in rules.items()}

    def on(self, server: Any) -> Any:
        """What a generated `add_..._to_server` is given in the place of the server."""
        return Wrapping(server, self.wrap)

    def wrap(self, method: str, handler: Any) -> Any:
        """A handler that does the same for those who may call it; PERMISSION_DENIED and a line in the log for others."""
        names = self._names(method)
        behavior = behavior_of(handler)

        async def one(request: Any, context: Any) -> Any:
            if reason := denied(method, names, context):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
            return await behavior(request, context)

        async def several(request: Any, context: Any) -> AsyncIterator[Any]:
            if reason := denied(method, names, context):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
            async for answer in behavior(request, context):
                yield answer

        def blocking(request: Any, context: Any) -> Any:
            if reason := denied(method, names, context):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
            return behavior(request, context)

        asked = several if inspect.isasyncgenfunction(behavior) else one if inspect.iscoroutinefunction(behavior) else blocking
        return rebuilt(handler, asked)

    def _names(self, method: str) -> Names:
        """Those of the closest rule."""
        service = method.rpartition("/")[0]
        return next((self._rules[rule] for rule in (method, f"{service}/*", ALL) if rule in self._rules), frozenset())


def denied(method: str, names: Names, context: Any) -> str:
    """Why the caller may not, which is also logged; empty where it may."""
    own = list(identities(context))
    for name in own:
        if name in names or ("://" in name and any(name.startswith(rule[:-1]) for rule in names if rule.endswith("/*"))):
            return ""
    logger.warning("denied %s to %s at %s", method, " ".join(own) or "a client without a name", context.peer())
    return f"{own[0] if own else 'a client without a name'} may not call {method}"


def identities(context: Any) -> Iterator[str]:
    """The verified names of a caller, URIs first."""
    verified = context.auth_context()
    for kind in ("peer_uri", "peer_dns"):
        for name in verified.get(kind, ()):
            yield name.decode(errors="replace")


def _check(method: str) -> None:
    service, slash, name = method.rpartition("/")
    if method == ALL:
        return
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
        if slash and (name == "*" or name in found.methods_by_name):
            return
    except KeyError:
        pass
    raise RuleError(f"'{method}' is no method; write package.Service/Method, package.Service/* or *")
