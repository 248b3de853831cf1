"""What a caller may decide about discovery: frozen values, all with defaults that suit production."""

from dataclasses import dataclass, field
from typing import Literal

from .errors import TargetError


@dataclass(frozen=True, slots=True)
class Empty:
    """What to do when a registry that listed endpoints suddenly lists none.

    keep: go on with the last set, for ever.  fail: believe it at once.  hold: believe it when it has lasted `seconds`.
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
    """Waiting between attempts: a random time up to a bound that doubles from `base` to `limit`, in seconds."""

    base: float = 0.1
    limit: float = 5.0


@dataclass(frozen=True, slots=True)
class Dns:
    """How dns-poll asks. Times in seconds.

    refresh: from one answer to the next question.   timeout: for one question, retries and servers together.
    servers: `host:port` or `host` of DNS servers to ask instead of those in /etc/resolv.conf.
    """

    refresh: float = 5.0
    timeout: float = 3.0
    servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("refresh", self.refresh), ("timeout", self.timeout)):
            if not 0.01 <= value <= 86400:
                raise TargetError(f"Dns({name}={value}) must be between 0.01 and 86400 seconds")


@dataclass(frozen=True, slots=True)
class Config:
    """One channel's choices; `Config()` is right for most.

    zone: the zone that this client runs in; empty means that zones do not count.
    empty: what an empty answer means; None leaves it to the source (dns-poll keeps, the others hold or believe).
    coalesce: seconds over which further changes are put together after one was passed on.
    health: name of the service to ask each endpoint for by grpc.health.v1 Watch, where the registry knows nothing of
        health; empty asks for the server as a whole, None does not ask.
    """

    zone: str = ""
    empty: Empty | None = None
    coalesce: float = 0.05
    health: str | None = ""
    backoff: Backoff = field(default_factory=Backoff)
    dns: Dns = field(default_factory=Dns)
