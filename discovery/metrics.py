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

    known: dict[str, dict[tuple[str, str], int]] = {}

    def endpoints(options: "CallbackOptions") -> "Iterable[Observation]":
        current = statuses()
        for target in known.keys() - {status.target for status in current}:
            known.pop(target, None)
        for status in current:
            # Zero for what has gone: without a point, a backend shows the last one for minutes.
            counted = dict.fromkeys(known.get(status.target, ()), 0)
            for endpoint in status.snapshot.endpoints if status.snapshot else ():
                key = endpoint.zone, endpoint.health.name.lower()
                counted[key] = counted.get(key, 0) + 1
            known[status.target] = counted
            for (zone, health), number in counted.items():
                yield Observation(number, {"discovery.target": status.target, "discovery.zone": zone, "discovery.health": health})

    def observed(read: Callable[[Status], int]) -> list[Callable[["CallbackOptions"], "Iterable[Observation]"]]:
        return [lambda options: [Observation(read(status), {"discovery.target": status.target}) for status in statuses()]]

    gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
    gauge("discovery.endpoints", [endpoints], "{endpoint}", "Endpoints in the set that was sent to gRPC, by zone and health")
    synced = observed(lambda status: int(status.state == "synced"))
    gauge("discovery.synced", synced, "1", "1 while the source is read, 0 while the last set is in use")
    counter("discovery.updates", observed(lambda status: status.pushes), "{update}", "Sets sent to gRPC")
    counter(
        "discovery.restarts", observed(lambda status: status.restarts), "{restart}", "Number of times that a watch was restarted"
    )
    counter("discovery.refusals", observed(lambda status: status.nacks), "{refusal}", "Sets that gRPC rejected (xDS NACK)")
