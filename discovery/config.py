"""The options of discovery: frozen values, with defaults for production."""

from dataclasses import dataclass, field
from typing import Literal

from .errors import TargetError

FAMILIES = ("any", "ipv4", "ipv6")
"""The values of Dns.family."""


@dataclass(frozen=True, slots=True)
class Empty:
    """What to do when a registry that listed endpoints suddenly lists none.

    keep: keep the last set forever.  fail: accept the empty set immediately.  hold: accept it once it has lasted `seconds`.
    """

    policy: Literal["keep", "fail", "hold"]
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Empty":
        """Read `keep`, `fail` or `hold:SECONDS`. Raises TargetError for anything else."""
        policy, _, seconds = text.partition(":")
        try:
            if policy == "hold":
                held = cls("hold", float(seconds.removesuffix("s")))
                if 0 < held.seconds < float("inf"):
                    return held
            elif policy in ("keep", "fail") and not seconds:
                return cls("keep" if policy == "keep" else "fail")
        except ValueError:
            pass
        raise TargetError(f"the empty policy '{text}' is unknown; write keep, fail, or hold:SECONDS as in hold:30")


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay between attempts: a random time up to a bound that doubles from `base` to `limit`, in seconds."""

    base: float = 0.1
    limit: float = 4.0


@dataclass(frozen=True, slots=True)
class Dns:
    """How dns-poll queries. Times in seconds.

    refresh: the interval between look-ups.
    timeout: for one name, families, servers and retries together; with its search list, a look-up takes at most twice as long.
    servers: `host:port` or `host` of DNS servers to use in place of those in /etc/resolv.conf.
    family: `ipv4` asks for A records only, `ipv6` for AAAA records only, `any` for both.
    """

    refresh: float = 5.0
    timeout: float = 3.0
    servers: tuple[str, ...] = ()
    family: Literal["any", "ipv4", "ipv6"] = "any"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise TargetError(f"Dns(family={self.family!r}) is unknown; write 'any', 'ipv4' or 'ipv6'")
        _check_times("Dns", refresh=self.refresh, timeout=self.timeout)


@dataclass(frozen=True, slots=True)
class Etcd:
    """How etcd is reached. Times in seconds.

    endpoints: the members, `host:port` or `https://host:port`; if one fails, the next is used.
    user, password: if etcd's authentication is on, or will be.
    ca, certificate, key: PEM files; `ca` or https enables TLS; without `ca`, the system's CAs are used.
    timeout: for one request.   keepalive: how often a silent watch is checked, and a registrar's key at the least.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    user: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    timeout: float = 5.0
    keepalive: float = 10.0

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise TargetError("Etcd(endpoints=()) has no member; write for example Etcd(endpoints=('127.0.0.1:2379',))")
        for first, second in (("certificate", "key"), ("key", "certificate"), ("user", "password"), ("password", "user")):
            if getattr(self, first) and not getattr(self, second):
                raise TargetError(f"Etcd({first}=...) needs {second}=... too")
        _check_times("Etcd", timeout=self.timeout, keepalive=self.keepalive)


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """How the Kubernetes API is reached: in a pod through its ServiceAccount, elsewhere through a kubeconfig.

    kubeconfig: a file, or several, separated as in $KUBECONFIG; empty means $KUBECONFIG, the ServiceAccount, or ~/.kube/config.
    context: one of the file's; empty means its current one.   timeout: seconds for one request.
    silence: seconds without an event or a bookmark after which a watch is restarted; the API server sends a bookmark about every
        minute.
    """

    kubeconfig: str = ""
    context: str = ""
    timeout: float = 10.0
    silence: float = 90.0

    def __post_init__(self) -> None:
        _check_times("Kubernetes", timeout=self.timeout, silence=self.silence)


@dataclass(frozen=True, slots=True)
class Remember:
    """The snapshot cache: the last known good set in a file, for a start while the registry is down.

    directory: where; empty disables the cache.   max_age: seconds after which a file is ignored.
    """

    directory: str = ""
    max_age: float = 86400.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_age <= 10 * 365 * 86400:
            raise TargetError(f"Remember(max_age={self.max_age}) must be between 1 second and 10 years")


@dataclass(frozen=True, slots=True)
class Outliers:
    """Outlier detection: which servers gRPC ejects for a while because calls to them fail (gRFC A50). Times in seconds.

    gRPC counts as failed whatever did not end with OK: answers such as NOT_FOUND, and streams that the caller canceled.

    threshold: the percentage of a server's calls within `interval` that must have failed.
    min_requests: the number of calls within `interval` below which a server is not evaluated.
    ejection: how long the first ejection lasts; each further one is longer by this time, up to `max_ejection`.
    max_percent: no further server is ejected once this percentage is; with 30, two of four. A single server never is.
    The defaults are gRPC's.
    """

    threshold: int = 85
    interval: float = 10.0
    min_requests: int = 50
    ejection: float = 30.0
    max_ejection: float = 300.0
    max_percent: int = 10

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("max_percent", self.max_percent)):
            if not 1 <= value <= 100:
                raise TargetError(f"Outliers({name}={value}) must be a percentage, 1 to 100")
        if self.min_requests < 1:
            raise TargetError(f"Outliers(min_requests={self.min_requests}) must be 1 or more")
        _check_times("Outliers", interval=self.interval, ejection=self.ejection, max_ejection=self.max_ejection)
        if self.max_ejection < self.ejection:
            raise TargetError(f"Outliers(max_ejection={self.max_ejection}) must not be shorter than ejection={self.ejection}")


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one channel; `Config()` is right for most.

    zone: the zone that this client runs in; empty ignores zones.
    node: the node that this client runs on (in a pod spec.nodeName, by the downward API), for Kubernetes' PreferSameNode; empty ignores it.
    empty: what to do about an answer without a usable endpoint; None means the source's default.
    coalesce: seconds for which further changes are collected after one was forwarded.
    outliers: outlier detection; None disables it, as on gRPC's own channels.
    health: the service to watch on each endpoint with grpc.health.v1, if the registry does not report health; empty means the server
        as a whole, None disables health checks.
    """

    zone: str = ""
    empty: Empty | None = None
    coalesce: float = 0.05
    health: str | None = ""
    node: str = ""
    backoff: Backoff = field(default_factory=Backoff)
    outliers: Outliers | None = None
    remember: Remember = field(default_factory=Remember)
    dns: Dns = field(default_factory=Dns)
    etcd: Etcd = field(default_factory=Etcd)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)


def _check_times(section: str, **seconds: float) -> None:
    for name, value in seconds.items():
        if not 0.01 <= value <= 86400:
            raise TargetError(f"{section}({name}={value}) must be between 0.01 and 86400 seconds")
