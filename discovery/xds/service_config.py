"""The caller's gRPC service config, as far as xDS supports it: JSON in, retry policies out.

With `xds:///` gRPC silently ignores a service config. The retry policies are therefore read here and become routes, so that existing
code keeps them when only its target changes. A warning names what has no counterpart.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import Outliers
from ..errors import TargetError

logger = logging.getLogger(__package__)

OPTION = "grpc.service_config"

RETRY_ON = {
    "CANCELLED": "cancelled",
    "DEADLINE_EXCEEDED": "deadline-exceeded",
    "INTERNAL": "internal",
    "RESOURCE_EXHAUSTED": "resource-exhausted",
    "UNAVAILABLE": "unavailable",
}
"""The status codes on which an xDS route can retry (gRFC A44), by their names in a service config."""

SMALLEST_BACKOFF = 0.01
"""Seconds; below it gRPC loses retries (1 ms: half of the calls hung to their deadline)."""

_OUTLIERS = "outlier_detection_experimental"

_NUMBERS = {1: "CANCELLED", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED", 13: "INTERNAL", 14: "UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy. attempts: the first included, 2 to 5.   on: status codes in xDS's spelling.   backoffs in seconds."""

    attempts: int
    on: tuple[str, ...]
    initial_backoff: float
    max_backoff: float


@dataclass(frozen=True, slots=True)
class Rule:
    """The policy of the calls whose path is `path`, or starts with it if it ends in '/' or is empty; None exempts them."""

    path: str
    retry: Retry | None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The parsed config. rules: the most specific first.   health: the service to health-check (healthCheckConfig), None if not set.
    outliers: the configuration of outlier_detection_experimental, None if not set."""

    rules: tuple[Rule, ...] = ()
    health: str | None = None
    outliers: Outliers | None = None


def read_service_config(options: Sequence[tuple[str, Any]]) -> ServiceConfig:
    """Read the service config from channel options. Raises TargetError if it is not valid JSON or malformed."""
    texts = [value for name, value in options if name == OPTION]
    if not texts:
        return ServiceConfig()
    try:
        config = json.loads(texts[-1])
        rules = _rules(config.get("methodConfig", ()))
        health = config.get("healthCheckConfig", {}).get("serviceName")
        outliers = _outliers(config)
        _warn(config)
    except TargetError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise TargetError(
            f"the option {OPTION} cannot be read: {type(error).__name__}: {error}; it must be a gRPC service config in JSON"
        ) from None
    return ServiceConfig(rules, health, outliers)


def service_config_problems(text: str) -> Iterator[str]:
    """Mistakes in a service config that gRPC's core ignores silently: a sentence for each, to follow the config's name."""
    try:
        config: dict[str, Any] = json.loads(text)
        yield from _unknown(
            config, "methodConfig", "loadBalancingConfig", "loadBalancingPolicy", "retryThrottling", "healthCheckConfig"
        )
        ratio = config.get("retryThrottling", {}).get("tokenRatio")
        if isinstance(ratio, int):
            yield f"has retryThrottling.tokenRatio={ratio}, which gRPC reads as {ratio / 1000:g}; write {float(ratio)}"
        if "healthCheckConfig" in config and any("pick_first" in policy for policy in config.get("loadBalancingConfig", [])):
            yield "has healthCheckConfig with loadBalancingConfig pick_first, which ignores health; drop the first or use round_robin"
        for method in config.get("methodConfig", []):
            yield from _unknown(method, "name", "retryPolicy", "timeout", "hedgingPolicy", "waitForReady")
            if "timeout" in method:
                yield f"has timeout={method['timeout']}, which gRPC fires 1 to 2 s early; drop it and set the calls' own deadline"
            if "hedgingPolicy" in method:
                yield "has a hedgingPolicy, which gRPC ignores; drop it and use retryPolicy"
            yield from _retry_problems(method.get("retryPolicy"))
    except (ValueError, TypeError, AttributeError) as error:
        yield f"cannot be read: {error}; write a gRPC service config in JSON, or drop it"


def _retry_problems(policy: dict[str, Any] | None) -> Iterator[str]:
    if policy is None:
        return
    yield from _unknown(policy, "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes")
    attempts = policy.get("maxAttempts")
    if not isinstance(attempts, int) or not 2 <= attempts <= 5:
        yield f"has retryPolicy.maxAttempts={attempts!r}; gRPC makes 2 to 5: write one of these"
    for key in ("initialBackoff", "maxBackoff"):
        if not isinstance(policy.get(key), str) or not re.fullmatch(r"\d+(\.\d+)?s", policy[key]):
            yield f"has retryPolicy.{key}={policy.get(key)!r}; write seconds with a unit, as in 1.5s"


def _unknown(found: dict[str, Any], *known: str) -> Iterator[str]:
    for key in found.keys() - set(known):
        yield f"has '{key}', which gRPC does not know and would ignore; write one of {', '.join(sorted(known))}"


def _rules(entries: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The entry with the most specific name counts, whole: a method's, then its service's, then the default. So one without a retry
    policy exempts what it names from broader policies."""
    found: dict[str, Retry | None] = {}
    for entry in entries:
        for key in ("timeout", "hedgingPolicy", "waitForReady"):
            if key in entry:
                logger.warning("the service config's %s has no effect on discovery's targets: gRPC ignores it under xDS", key)
        policy = entry.get("retryPolicy")
        retry = None if policy is None else _retry(policy)
        for path in map(_path, entry.get("name", ())):
            if path in found:
                raise TargetError(f"the option {OPTION}: two entries of methodConfig name '{path}'; gRPC refuses that")
            found[path] = retry
    ordered = sorted(
        found, key=lambda path: (path.endswith("/") or not path, -len(path))
    )  # gRPC uses the first route that matches
    return tuple(Rule(path, found[path]) for path in ordered if found[path] or _broader(found, path))


def _path(name: Mapping[str, str]) -> str:
    service, method = name.get("service", ""), name.get("method", "")
    if method and not service:
        raise TargetError(f"the option {OPTION}: the name {dict(name)} has a method without a service; gRPC refuses that")
    return f"/{service}/{method}" if service else ""


def _broader(found: Mapping[str, Retry | None], path: str) -> Retry | None:
    """The policy that calls of `path` would have without its entry."""
    service = path.rpartition("/")[0] + "/"
    return found[service] if path != service and service in found else found.get("")


def _retry(policy: Mapping[str, Any]) -> Retry | None:
    attempts = policy["maxAttempts"]
    if not isinstance(attempts, int) or attempts < 2:
        raise TargetError(f"the option {OPTION}: maxAttempts is {attempts!r}; it must be 2 to 5")
    if not policy["retryableStatusCodes"]:
        raise TargetError(f"the option {OPTION}: retryableStatusCodes is empty; gRPC refuses that")
    codes = [_NUMBERS.get(code, str(code)) if isinstance(code, int) else code.upper() for code in policy["retryableStatusCodes"]]
    for code in codes:
        if code not in RETRY_ON:
            logger.warning(
                "the service config's retryable code %s has no effect on discovery's targets: xDS cannot retry on it", code
            )
    on = tuple(sorted(RETRY_ON[code] for code in codes if code in RETRY_ON))
    initial = max(SMALLEST_BACKOFF, _seconds(policy["initialBackoff"]))
    return Retry(min(attempts, 5), on, initial, max(initial, _seconds(policy["maxBackoff"]))) if on else None


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(\.\d+)?)s", text)
    if match is None:
        raise TargetError(f"the option {OPTION}: '{text}' is no duration; write seconds, as in 0.1s")
    return float(match[1])


def _outliers(config: Mapping[str, Any]) -> Outliers | None:
    """The balancer's failurePercentageEjection, with its defaults (gRFC A50)."""
    found = [entry[_OUTLIERS] for entry in config.get("loadBalancingConfig", ()) if _OUTLIERS in entry][:1]
    if not found or "failurePercentageEjection" not in found[0]:
        return None
    balancer, failures = found[0], found[0]["failurePercentageEjection"]
    times = {"interval": "interval", "ejection": "baseEjectionTime", "max_ejection": "maxEjectionTime"}
    given: dict[str, Any] = {field: _seconds(balancer[key]) for field, key in times.items() if key in balancer}
    numbers = (
        ("threshold", failures, "threshold"),
        ("min_requests", failures, "requestVolume"),
        ("max_percent", balancer, "maxEjectionPercent"),
    )
    return Outliers(**given, **{field: where[key] for field, where, key in numbers if key in where})


def _warn(config: Mapping[str, Any]) -> None:
    named = [name for entry in config.get("loadBalancingConfig", ()) for name in entry] or [
        config.get("loadBalancingPolicy", "round_robin")
    ]
    if named[0] == _OUTLIERS:
        around = config["loadBalancingConfig"][0][_OUTLIERS]
        named = [name for entry in around.get("childPolicy", ()) for name in entry] or ["nothing"]
        if "successRateEjection" in around:
            logger.warning(
                "the service config's successRateEjection has no effect on discovery's targets: they use failurePercentageEjection"
            )
    if named[0] != "round_robin":
        logger.warning(
            "the service config's balancing policy %s has no effect on discovery's targets: they use round_robin", named[0]
        )
    if "retryThrottling" in config:
        logger.warning("the service config's retryThrottling has no effect on discovery's targets: gRPC has none under xDS")
