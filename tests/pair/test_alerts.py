"""The alerts and the dashboard, on what the pair exports: by a real collector to a real Prometheus, while everything that can go wrong does."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from discovery.testing import EtcdServer

from .otel_collector import Collector
from .processes import DEADLINE, load_generator, servers
from .project import PROJECT
from .prometheus import Prometheus, Series, program

pytestmark = pytest.mark.etcd

COMPONENTS = PROJECT.folder / "deploy/components"
SERVICE = (Path(__file__).parent / "kinds_service.py").read_text()
UNAVAILABLE_AT_TIMES = """
import itertools, grpc
from greeter.server.__main__ import main
from greeter.server.servicer import GreeterServicer

greet, count = GreeterServicer.Greet, itertools.count(1)

async def sometimes(self, request, context):
    if next(count) % 20 == 0:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")
    return await greet(self, request, context)

GreeterServicer.Greet = sometimes
main()
"""
"""A server with so few failures that the budget of retries is never used up."""
RETRYING = "retrying/greeter-client"
"""The job of its client, whose target gRPC resolves itself: it has no metrics of discovery."""
NOWHERE = "127.0.0.1:1"

RULES: Any = yaml.safe_load((COMPONENTS / "alerts/rules.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((COMPONENTS / "dashboard/dashboard.json").read_text())
VARIABLES = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"}
TARGETS = {f"{panel['title']} {target['refId']}": target for panel in DASHBOARD["panels"] for target in panel["targets"]}

SELECTOR = r"\w+\{[^}]*\}"


def filled(query: str) -> str:
    """As Grafana sends it, with all values of each variable."""
    for name, values in VARIABLES.items():
        query = query.replace(f"${name}", re.findall(r'job=~"([^"]*)"', values)[0])
    return query.replace("$__rate_interval", "1m")


EXPRESSIONS = {name: rule["expr"] for name, rule in ALERTS.items()} | {
    name: filled(target["expr"]) for name, target in TARGETS.items()
}


def named(expression: str) -> set[str]:
    """The labels that it groups, joins, and selects by."""
    grouped = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", expression)
    return {label for group in grouped for label in re.split(r",\s*", group)} | set(
        re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", expression)
    )


def call(channel: Any, method: str) -> Any:
    """A call that has begun."""
    return channel.unary_unary(f"/test.Kinds/{method}").future(b"", timeout=1.2)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, dict[str, list[Series]]]]:
    """Prometheus, and the first series that each expression had: handlers that raise or take long, calls above the limit, a server
    that is down, one that is UNAVAILABLE at times, a registry that is down."""
    folder = tmp_path_factory.mktemp("alerts")
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        prometheus = stack.enter_context(Prometheus(folder, collector.scraped))
        found = {"NoMetrics": prometheus.query(EXPRESSIONS["NoMetrics"])}
        etcd = EtcdServer(folder / "etcd")
        stack.callback(etcd.stop)
        etcd.start()
        common = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop",
            "DISCOVERY__ETCD__ENDPOINTS": json.dumps([etcd.address]),
            "DISCOVERY__ZONE": "zone-a",
        }
        registered = {
            "REGISTRATION__TARGET": "etcd:///greeter",
            "REGISTRATION__ADDRESS": "127.0.0.1",
            "SERVER__MAX_CONCURRENT_RPCS": "1",
        }
        [(_, address)] = stack.enter_context(servers("a", code=SERVICE, **common, **registered)).values()
        stack.enter_context(load_generator(CLIENT__TARGET="etcd:///greeter", **common))
        stack.enter_context(load_generator(NOWHERE, CLIENT__RATE="5", **common))
        [(_, unsteady)] = stack.enter_context(servers("b", code=UNAVAILABLE_AT_TIMES)).values()
        retrying = {"OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={RETRYING.partition('/')[0]}"}
        retrying |= {"CLIENT__TARGET": f"passthrough:///{unsteady}"}
        stack.enter_context(load_generator(**common | retrying))
        down = {"DISCOVERY__ETCD__ENDPOINTS": json.dumps([f"http://{NOWHERE}"])}
        stack.enter_context(load_generator(CLIENT__TARGET="etcd:///greeter", **common | down))
        channel: Any = stack.enter_context(grpc.insecure_channel(address))
        end = time.monotonic() + DEADLINE
        while EXPRESSIONS.keys() - found.keys() and time.monotonic() < end:
            call(channel, "Raises").exception()
            hangs = call(channel, "Hangs")  # for longer than the alert's second; the others are above the limit
            for other in [call(channel, "Returns") for _ in range(50)]:
                other.exception()
            hangs.exception()
            for name in EXPRESSIONS.keys() - found.keys():
                series = [each for each in prometheus.query(EXPRESSIONS[name]) if each["value"][1] != "NaN"]
                # Retries of calls that all fail end with the budget, after seconds; no alert waits so shortly.
                if any(name != "CallsRetried" or each["metric"]["job"] == RETRYING for each in series):
                    found[name] = series
        yield prometheus, found


Shown = tuple[Prometheus, dict[str, list[Series]]]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_metric_and_label_in_an_expression_is_exported(shown: Shown, name: str) -> None:
    """A selector that selects nothing is no error to Prometheus: the alert would never fire, the panel stay empty."""
    prometheus, _ = shown
    selectors = re.findall(SELECTOR, EXPRESSIONS[name])
    assert selectors
    labels: set[str] = set()
    for selector in selectors:
        series = prometheus.query(selector)
        assert series, selector
        labels.update(*(each["metric"] for each in series))
    assert named(EXPRESSIONS[name]) <= labels


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_fires(shown: Shown, name: str) -> None:
    """And has what its description shows, with the values of a project in a namespace."""
    _, found = shown
    assert name in found, "nothing in this run has made it true"
    used = set(re.findall(r"\$labels\.(\w+)", ALERTS[name]["annotations"]["description"]))
    assert all(used <= each["metric"].keys() for each in found[name])


@pytest.mark.parametrize("name", TARGETS)
def test_every_panel_shows_something(shown: Shown, name: str) -> None:
    """And has what its legend shows."""
    _, found = shown
    assert name in found, EXPRESSIONS[name]
    used = set(re.findall(r"\{\{(\w+)\}\}", TARGETS[name]["legendFormat"]))
    assert used <= set().union(*(each["metric"] for each in found[name]))


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_of_the_dashboard_has_values(shown: Shown, name: str) -> None:
    """Of the job, with the project's namespace, and of every client."""
    prometheus, _ = shown
    [selector] = re.findall(SELECTOR, VARIABLES[name])
    assert VARIABLES[name] == f"label_values({selector}, job)"
    jobs = {each["metric"]["job"] for each in prometheus.query(selector)}
    assert jobs == {"server": {"shop/greeter-server"}, "client": {"shop/greeter-client", RETRYING}}[name]


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """Expressions, and the templates of annotations."""
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(RULES))
    done = subprocess.run([program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout
