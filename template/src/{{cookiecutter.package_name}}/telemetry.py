"""Metrics and traces: OpenTelemetry's SDK, configured by its own environment variables, which it reads itself.

Nothing of the SDK is imported unless a variable names an endpoint, an exporter, or a configuration file.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import quote

from .defaults import SERVICE
from .discovery.calls.telemetry import enabled
from .settings import Settings, SettingsError

LAST_EXPORT = 2.0
"""The maximum time in seconds that a process waits for the collector when it ends."""


def configure(settings: Settings, role: str) -> None:
    """Configure the SDK if the environment asks for it. `role` is server or client.

    Raises SettingsError for a variable that the SDK does not accept, and for a package that is not installed.
    """
    if enabled() or not _exporting():  # enabled: the program opentelemetry-instrument has configured it
        return
    _set_defaults(settings, role)
    problems, sdk = _Problems(logging.WARNING), logging.getLogger("opentelemetry")
    sdk.addHandler(problems)
    sdk.propagate = False
    try:
        from opentelemetry import propagate  # noqa: F401  # reads OTEL_PROPAGATORS
        from opentelemetry.distro import OpenTelemetryConfigurator

        OpenTelemetryConfigurator().configure(exporter_args_map=_exporter_arguments())  # type: ignore[no-untyped-call]
    except Exception as error:
        problems.found.append(str(error))
    finally:
        sdk.removeHandler(problems)
        sdk.propagate = True
    if problems.found:
        raise SettingsError("\n".join(map(_explained, problems.found)))


class _Problems(logging.Handler):
    """What the SDK only warns of, and replaces by a default."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Not of a cloud's metadata service that does not answer, nor of an export in its own thread.
        if record.name.startswith("opentelemetry.sdk.resources") or record.thread != threading.get_ident():
            logging.getLogger().handle(record)
        else:
            self.found.append(record.getMessage())


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _default(name: str, value: str) -> None:
    if not _variable(name):  # an empty variable counts as unset, by OpenTelemetry's specification
        os.environ[name] = value


def _exporting() -> bool:
    """Whether anything is exported. A signal with an endpoint is, by OTLP, unless its variable for exporters says otherwise."""
    for signal in ("TRACES", "METRICS"):
        endpoint = _variable("OTEL_EXPORTER_OTLP_ENDPOINT") or _variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        _default(f"OTEL_{signal}_EXPORTER", "otlp" if endpoint else "none")
    exporters = {_variable(f"OTEL_{signal}_EXPORTER").lower() for signal in ("TRACES", "METRICS", "LOGS")}
    wanted = bool(exporters - {"", "none"} or _variable("OTEL_CONFIG_FILE"))
    return wanted and _variable("OTEL_SDK_DISABLED").lower() != "true"


def _set_defaults(settings: Settings, role: str) -> None:
    attributes = _variable("OTEL_RESOURCE_ATTRIBUTES")
    named = {pair.partition("=")[0].strip() for pair in attributes.split(",")}
    if "service.name" not in named:
        _default("OTEL_SERVICE_NAME", f"{SERVICE}-{role}")
    name = settings.server.name if role == "server" and "name" in settings.server.model_fields_set else ""
    for attribute, value in {"service.instance.id": name, "service.version": _variable("SERVICE_VERSION")}.items():
        if value and attribute not in named:
            attributes += f",{attribute}={quote(value)}"
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = attributes.strip(",")
    _default("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if not _variable("OTEL_TRACES_SAMPLER"):
        _default("OTEL_TRACES_SAMPLER_ARG", "0.1")
        _default("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")


def _exporter_arguments() -> dict[type, dict[str, Any]]:
    import requests
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    class Session(requests.Session):
        """A certificate for the collector takes precedence over REQUESTS_CA_BUNDLE."""

        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)

    return {exporter: {"session": Session()} for exporter in (OTLPMetricExporter, OTLPSpanExporter)}


def _explained(problem: str) -> str:
    if "otlp_proto_grpc" in problem:
        return "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: install opentelemetry-exporter-otlp-proto-grpc, or use http/protobuf"
    if problem.startswith("Header format invalid"):  # it ends with the header, which may be a secret
        return "OTEL_EXPORTER_OTLP_HEADERS is invalid: write name=value pairs, separated by commas, with percent-encoded values"
    advice = ": install the extra 'otlp', or unset OpenTelemetry's variables" if problem.startswith("No module named") else ""
    return f"OpenTelemetry: {problem}{advice}"


def shutdown() -> None:
    """Export what there is, for at most LAST_EXPORT seconds, whatever the collector does."""
    from opentelemetry import _logs, metrics, trace

    ends = time.monotonic() + LAST_EXPORT
    threads = []
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()):
        end = getattr(provider, "shutdown", None)
        if end is not None:
            atexit.unregister(end)  # which would wait again, and longer
            threads.append(threading.Thread(target=_quietly, args=[end], daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        logging.getLogger(__name__).warning("the collector has not taken the last metrics and traces in %g s", LAST_EXPORT)


def _quietly(end: Any) -> None:
    with contextlib.suppress(Exception):
        end()
