"""Authorization by the names in the client's certificate, which TLS has verified before a call arrives.

A name is a DNS name or a URI, such as a SPIFFE ID, among the certificate's subject alternative names; the common name is ignored (RFC 6125
section 6.4.4). A URI is compared with URIs, a DNS name with DNS names, and those without regard to case (RFC 4343).
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pool

ALL = "*"


class Authorization:
    """Which clients may call which methods. `allowed`: names that may call everything, or names by method.

    A method is `package.Service/Method`, `package.Service/*` or `*`. Only the most specific rule applies; a call without a rule is
    denied. A URI that ends in `/*` matches all URIs with that prefix. Raises ValueError for a method that does not exist.
    """

    def __init__(self, allowed: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        rules = allowed if isinstance(allowed, Mapping) else {ALL: allowed}
        for method in rules:
            _check(method)
        self._rules = {method: frozenset(map(_normal, names)) for method, names in rules.items()}

    def denied(self, method: str, context: Any) -> str:
        """Why the caller may not call `method`; empty if it may."""
        service = method.rpartition("/")[0]
        rules: frozenset[str] = next(
            (self._rules[rule] for rule in (method, f"{service}/*", ALL) if rule in self._rules), frozenset()
        )
        verified = context.auth_context()
        uris = [name.decode(errors="replace") for name in verified.get("peer_uri", ())]
        names = [name.decode(errors="replace") for name in verified.get("peer_dns", ())]
        if any(name in rules or _has_prefix(name, rules) for name in uris if "://" in name):
            return ""
        if any(_normal(name) in rules for name in names if "://" not in name):
            return ""
        return f"{' '.join([*uris, *names]) or 'a client without a name'} may not call {method}"


def _normal(name: str) -> str:
    return name if "://" in name else name.lower()


def _has_prefix(uri: str, rules: frozenset[str]) -> bool:
    # A path with dot segments (RFC 3986 section 5.2.4) is somewhere else than its prefix says.
    return "/.." not in uri and any(rule.endswith("/*") and uri.startswith(rule[:-1]) and len(uri) >= len(rule) for rule in rules)


def _check(method: str) -> None:
    service, slash, name = method.rpartition("/")
    with contextlib.suppress(KeyError):
        if method == ALL or (slash and name in {"*", *descriptor_pool.Default().FindServiceByName(service).methods_by_name}):
            return
    raise ValueError(f"'{method}' is not a method; write package.Service/Method, package.Service/* or *")
