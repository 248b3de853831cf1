"""The rules as the Prometheus operator takes them, and their runbooks."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from .rendered import NEEDS_KUBECTL, Object, objects, project
from .test_docs import anchors

pytestmark = NEEDS_KUBECTL

OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
DEFINITION = "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"


def rules() -> Object:
    """The PrometheusRule, with all labels."""
    [found] = [item for item in objects("kubernetes", "telemetry", "alerts") if item["kind"] == "PrometheusRule"]
    return found


def alerts() -> list[Object]:
    return [rule for group in rules()["spec"]["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def schema() -> Any:
    """The operator's, of the version that the object has; a field that it does not name is a mistake."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        pytest.skip("needs Go, which downloads the Prometheus operator's definitions: https://go.dev/dl")
    done = subprocess.run([go, "mod", "download", "-json", OPERATOR], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    definition = yaml.safe_load((Path(json.loads(done.stdout)["Dir"]) / DEFINITION).read_text())
    served = {f"{definition['spec']['group']}/{each['name']}": each for each in definition["spec"]["versions"] if each["served"]}
    return closed(served[rules()["apiVersion"]]["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """No field but those that are named. `metadata`, which every kind has, is open."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if isinstance(schema, str):
        return schema.replace("^(?i)", "(?i)^")  # Go's regular expressions have flags anywhere
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(each) for name, each in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


def test_the_operators_definition_has_every_field(schema: Any) -> None:
    """Of the rules and their annotations; durations have its form."""
    jsonschema.validate(rules(), schema)


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ({"serverity": "critical"}, "serverity"),
        ({"for": "5 minutes"}, "does not match"),
        ({"labels": {"severity": 1}}, "is not of type 'string'"),
    ],
)
def test_the_definition_refuses_a_rule_with_a_mistake(schema: Any, mistake: Object, reason: str) -> None:
    """So what it accepts has none."""
    broken = rules() | {"spec": {"groups": [{"name": "x", "rules": [alerts()[0] | mistake]}]}}
    with pytest.raises(jsonschema.ValidationError, match=reason):
        jsonschema.validate(broken, schema)


def test_every_alert_has_a_severity_and_a_runbook() -> None:
    """The runbook is a heading with the alert's name; and no heading is left without an alert."""
    page = project() / "docs/operating.md"
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description", "runbook"} == rule["annotations"].keys()
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in anchors(page)
    section = page.read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert [line.removeprefix("### ") for line in section.splitlines() if line.startswith("### ")] == [
        rule["alert"] for rule in alerts()
    ]
