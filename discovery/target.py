"""Text in, Target out: the grammar of all targets.

| target                                              | source of the endpoints                      |
|-----------------------------------------------------|----------------------------------------------|
| kubernetes:///service[.namespace][:port]            | EndpointSlices, watched                      |
| etcd:///service, etcd:////service                   | keys under `service/` or `/service/`, watched|
| dns-poll:///name[:port]                             | A, AAAA (SRV without a port), on a timer     |
| static:///host:port,host:port                       | the list itself                              |
| manual:///name                                      | what the program set last                    |
| a scheme of `discovery.register`, :///any text      | a source of the program's own                |
| one of these,another,...                            | the first that is synced (failover.py)       |
| dns:, passthrough:, xds:, unix:, ipv4:, ipv6: ...   | gRPC itself, with gRPC's own meaning         |
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from .errors import TargetError
from .snapshot import canonical_address, parse_authority

OURS = ("dns-poll", "etcd", "kubernetes", "manual", "static")
"""Schemes that this library resolves."""

GRPC_OWN = ("dns", "passthrough", "xds", "unix", "unix-abstract", "ipv4", "ipv6", "vsock")
"""Schemes that gRPC resolves. gRPC Python has no passthrough resolver; see grpc_schemes.py."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_REGISTRABLE = re.compile(r"[a-z][a-z0-9+.-]*")
_SEVERAL = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*:///)")
_AUTHORITY = "!$&'()*+,;=:@[]"
"""What stays as it is in an authority, besides letters, digits, and `-._~`."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,254}}$){_LABEL}(?:\.{_LABEL})*\.?")
_KUBERNETES_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")  # IANA_SVC_NAME, RFC 6335 section 5.1


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target. `str(target)` is the original text.

    name: for static the list, for the others what to look up.   port: a number or the name of a port, empty if none.
    namespace: only for kubernetes; empty means the pod's own.
    choices: each target of a list, the first of which this one describes; else empty.
    """

    text: str
    scheme: str
    name: str
    namespace: str = ""
    port: str = ""
    choices: tuple["Target", ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def ours(self) -> bool:
        """Whether this library resolves it, or a source that the program registered, rather than gRPC."""
        return self.scheme not in GRPC_OWN

    @property
    def authority(self) -> str:
        """The value of :authority, and with TLS the name that a server's certificate must have: never one pod's address.

        Percent-encoded as gRPC does it for its own targets (URI::PercentEncodeAuthority; RFC 3986, section 3.2).
        """
        host = (self.name.split(",")[0] if self.scheme == "static" else self.name).removesuffix(".")
        if self.namespace:
            host = f"{host}.{self.namespace}"
        if self.scheme == "dns-poll" and ":" in host:
            host = f"[{host}]"
        return quote(f"{host}:{self.port}" if self.port.isdigit() else host, safe=_AUTHORITY)


def parse(text: str) -> Target:
    """Parse a target. Raises TargetError with the reason and an example if it is invalid."""
    if not isinstance(text, str) or not text.strip():
        raise TargetError("the target is empty; write for example kubernetes:///service.namespace:grpc")
    _check_characters(text, text)
    if len(parts := _SEVERAL.split(text)) > 1:
        choices = tuple(parse(part) for part in parts)
        for choice in choices:
            if not choice.ours:
                raise TargetError(
                    f"target '{text}': only {', '.join(sorted(_READERS.keys() - GRPC_OWN))} can stand in a list, not '{choice}', which gRPC resolves"
                )
        return replace(choices[0], text=text, choices=choices)
    match = _SCHEME.fullmatch(text)
    scheme = match[1].lower() if match else ""
    registered = _READERS.get(scheme, _registered) is _registered
    if match is None or (registered and not match[2].startswith("/")):
        # As gRPC: `host:port` and a bare name are dns (grpc's doc/naming.md).
        return Target(text, "dns", text)
    if scheme not in _READERS:
        raise TargetError(f"target '{text}': the scheme '{scheme}' is unknown; there are {', '.join(sorted(_READERS))}")
    return _READERS[scheme](text, scheme, match[2])


def check_scheme(scheme: str) -> None:
    """Raises TargetError if `scheme` is no URI scheme (RFC 3986, section 3.1) in lower case, or has a meaning already."""
    if not _REGISTRABLE.fullmatch(scheme):
        raise TargetError(f"{scheme!r} is no scheme: write a lower-case letter, then letters, digits, '+', '-', or '.'")
    if scheme in _READERS:
        raise TargetError(f"the scheme '{scheme}' is taken; there are {', '.join(sorted(_READERS))}")


def add_scheme(scheme: str) -> None:
    """Make `scheme:///any text` a target of ours; its name is the text, percent-decoded."""
    _READERS[scheme] = _registered


def _check_characters(text: str, part: str) -> None:
    """Characters written as %0A would break :authority too."""
    if any(character.isspace() or not character.isprintable() for character in part):
        raise TargetError(f"target {text!r} holds a space or a character that cannot be printed")


def _path(text: str, scheme: str, rest: str, example: str) -> str:
    """What follows `scheme:///`, without '?' and '#', which in a URI would begin options."""
    path = _any_path(text, rest, example)
    if "?" in path or "#" in path:
        raise TargetError(f"target '{text}': '?' and '#' have no meaning here; options go into discovery.Config")
    return path


def _any_path(text: str, rest: str, example: str) -> str:
    """What follows `scheme:///`; an authority between the slashes has no meaning for our schemes."""
    if not rest.startswith("///"):
        raise TargetError(f"target '{text}': write three slashes after the scheme, as in {example}")
    path = unquote(rest[3:])
    _check_characters(text, path)
    if not path:
        raise TargetError(f"target '{text}' names nothing; write for example {example}")
    return path


def _kubernetes(text: str, scheme: str, rest: str) -> Target:
    example = "kubernetes:///service.namespace:grpc"
    host, colon, port = _path(text, scheme, rest, example).partition(":")
    _check_port(text, colon, port, named=True)
    service, *others = host.removesuffix(".").split(".")
    namespace = others[0] if others else ""
    if len(others) > 1 and others[1] != "svc":
        raise TargetError(
            f"target '{text}': after service and namespace only 'svc' and the cluster's suffix may follow, as in {example}"
        )
    for what, label in (("service", service), ("namespace", namespace)):
        if (label or what == "service" or others) and not _KUBERNETES_LABEL.fullmatch(label):
            raise TargetError(
                f"target '{text}': '{label}' is no {what} name (lower-case letters, digits, '-'); write for example {example}"
            )
    return Target(text, scheme, service, namespace, port)


def _dns_poll(text: str, scheme: str, rest: str) -> Target:
    example = "dns-poll:///service.namespace.svc.cluster.local.:50051"
    path = _path(text, scheme, rest, example)
    if path.startswith("["):
        try:
            name, number = parse_authority(path)
            return Target(text, scheme, canonical_address(name), port=str(number))
        except ValueError as error:
            raise TargetError(f"target '{text}': {error}") from None
    name, colon, port = path.partition(":")
    _check_port(text, colon, port, named=False)
    if not _DNS_NAME.fullmatch(name):
        raise TargetError(f"target '{text}': '{name}' is no DNS name; write for example {example}")
    return Target(text, scheme, name, port=port)


def _check_port(text: str, colon: str, port: str, *, named: bool) -> None:
    if not colon:
        return
    number = port.isascii() and port.isdigit()
    if number and 1 <= int(port) <= 65535:
        return
    if named and not number and _PORT_NAME.fullmatch(port):
        return
    kinds = "a number from 1 to 65535 or the name of a port" if named else "a number from 1 to 65535"
    raise TargetError(f"target '{text}': after the colon there must be {kinds}, not '{port}'")


def _named(text: str, scheme: str, rest: str) -> Target:
    name = _path(text, scheme, rest, f"{scheme}:///greeter")
    rooted = scheme == "etcd"  # its keys may begin with '/'
    if name.endswith("/") or "//" in name or (name.startswith("/") and not rooted):
        where = "end" if rooted else "begin or end"
        raise TargetError(
            f"target '{text}': the name '{name}' must not {where} with '/' nor hold '//'; write {scheme}:///greeter"
        )
    return Target(text, scheme, name)


def _registered(text: str, scheme: str, rest: str) -> Target:
    return Target(text, scheme, _any_path(text, rest, f"{scheme}:///greeter"))


def _static(text: str, scheme: str, rest: str) -> Target:
    path = _path(text, scheme, rest, "static:///127.0.0.1:50051,[::1]:50051")
    for item in path.split(","):
        try:
            parse_authority(item)
        except ValueError as error:
            raise TargetError(f"target '{text}': {error}") from None
    return Target(text, scheme, path)


def _native(text: str, scheme: str, rest: str) -> Target:
    name = rest.rsplit("/", 1)[-1] if rest.startswith("//") and scheme in ("dns", "passthrough", "xds") else rest
    if not name.strip("/"):
        raise TargetError(f"target '{text}' names nothing; write for example {scheme}:///name:50051")
    return Target(text, scheme, name)


_READERS: dict[str, Callable[[str, str, str], Target]] = {
    "dns-poll": _dns_poll,
    "etcd": _named,
    "kubernetes": _kubernetes,
    "manual": _named,
    "static": _static,
    **dict.fromkeys(GRPC_OWN, _native),
}
