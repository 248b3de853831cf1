"""Statuses in, OpenTelemetry metrics out, if the program uses OpenTelemetry; otherwise nothing.

The program installs an SDK and decides where metrics go. Its API is not imported here: a program that exports metrics has imported it,
before or after its first channel, and for any other one it would take a tenth of this library's start.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .errors import report
from .status import Status

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

logger = logging.getLogger(__package__)

_API = "opentelemetry.metrics"

_turn = [None]
"""Taken by the thread that creates the instruments."""

_record: Callable[[float, dict[str, Any]], None] | None = None
"""The histogram's, once there is one."""

_lags: deque[tuple[str, float]] = deque(maxlen=16)
"""Target and seconds of the last changes, until they are recorded."""


def record_lag(target: str, seconds: float) -> None:
    """One change took `seconds` from its arrival to the control plane."""
    _lags.append((target, seconds))
    if _record is not None:
        _record_lags(_record)


def observe(statuses: Callable[[], list[Status]]) -> None:
    """Report on every target of `statuses` at each collection, once the program has imported OpenTelemetry; called at each new status,
    by any thread."""
    global _record
    if _API not in sys.modules:
        return
    try:
        _turn.pop()
    except IndexError:
        return
    try:
        from opentelemetry import metrics  # waits for a thread that is importing it

        meter = metrics.get_meter("discovery")
        _create_gauges(meter, statuses)
        record = meter.create_histogram(
            "discovery.propagation.duration",
            unit="s",
            description="From a change in the registry to the set being sent to gRPC",
            explicit_bucket_boundaries_advisory=[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
        ).record
    except Exception as error:  # a broken installation raises anything, and metrics are not worth a channel
        report(logger.warning, "no metrics: OpenTelemetry cannot be used: %s: %s", type(error).__name__, error)
        return
    _record = record
    _record_lags(record)


def _record_lags(record: Callable[[float, dict[str, Any]], None]) -> None:
    while _lags:
        try:
            target, seconds = _lags.popleft()
        except IndexError:  # another thread was faster
            return
        record(seconds, {"discovery.target": target})


def _create_gauges(meter: "Meter", statuses: Callable[[], list[Status]]) -> None:
    from opentelemetry.metrics import Observation

    def gauge(name: str, unit: str, description: str, read: Callable[[Status], Iterable[tuple[float, dict[str, str]]]]) -> None:
        def collect(options: "CallbackOptions") -> "Iterable[Observation]":
            for status in statuses():
                for value, attributes in read(status):
                    yield Observation(value, {"discovery.target": status.target, **attributes})

        meter.create_observable_gauge(name, [collect], unit=unit, description=description)

    def count(name: str, unit: str, description: str, read: Callable[[Status], int]) -> None:
        def collect(options: "CallbackOptions") -> "Iterable[Observation]":
            for status in statuses():
                yield Observation(read(status), {"discovery.target": status.target})

        meter.create_observable_counter(name, [collect], unit=unit, description=description)

    gauge("discovery.endpoints", "{endpoint}", "Endpoints in the set that was sent to gRPC, by zone and health", _endpoints)
    gauge(
        "discovery.synced",
        "1",
        "1 while the source is read, 0 while the last set is in use",
        lambda status: [(int(status.state == "synced"), {})],
    )
    count("discovery.updates", "{update}", "Sets sent to gRPC", lambda status: status.pushes)
    count("discovery.restarts", "{restart}", "Number of times that a watch was restarted", lambda status: status.restarts)
    count("discovery.refusals", "{refusal}", "Sets that gRPC rejected (xDS NACK)", lambda status: status.nacks)


def _endpoints(status: Status) -> Iterable[tuple[float, dict[str, str]]]:
    counted: dict[tuple[str, str], int] = {}
    for endpoint in status.snapshot.endpoints if status.snapshot else ():
        key = endpoint.zone, endpoint.health.name.lower()
        counted[key] = counted.get(key, 0) + 1
    return [(number, {"discovery.zone": zone, "discovery.health": health}) for (zone, health), number in counted.items()]
