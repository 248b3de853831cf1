"""Statuses in, OpenTelemetry metrics out, if the API is installed; otherwise nothing.

The API alone costs nothing: the program installs an SDK and decides where metrics go.
"""

from collections.abc import Callable, Iterable

from .status import Status

try:
    from opentelemetry import metrics
    from opentelemetry.metrics import CallbackOptions, Observation
except ModuleNotFoundError:

    def observe(statuses: Callable[[], list[Status]]) -> None:
        """No OpenTelemetry, no metrics."""

    def record_lag(target: str, seconds: float) -> None:
        """No OpenTelemetry, no metrics."""

else:
    _meter = metrics.get_meter("discovery")
    _lag = _meter.create_histogram(
        "discovery.propagation.duration",
        unit="s",
        description="From a change in the registry to the set being sent to gRPC",
        explicit_bucket_boundaries_advisory=[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    )

    def record_lag(target: str, seconds: float) -> None:
        """One change took `seconds` from its arrival to the control plane."""
        _lag.record(seconds, {"discovery.target": target})

    def observe(statuses: Callable[[], list[Status]]) -> None:
        """Report on every target of `statuses` at each collection."""

        def gauge(
            name: str, unit: str, description: str, read: Callable[[Status], Iterable[tuple[float, dict[str, str]]]]
        ) -> None:
            def collect(options: CallbackOptions) -> Iterable[Observation]:
                for status in statuses():
                    for value, attributes in read(status):
                        yield Observation(value, {"discovery.target": status.target, **attributes})

            _meter.create_observable_gauge(name, [collect], unit=unit, description=description)

        def count(name: str, unit: str, description: str, read: Callable[[Status], int]) -> None:
            def collect(options: CallbackOptions) -> Iterable[Observation]:
                for status in statuses():
                    yield Observation(read(status), {"discovery.target": status.target})

            _meter.create_observable_counter(name, [collect], unit=unit, description=description)

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
