"""The manifests, rendered by kubectl without a cluster: every overlay, checked against the programs' settings."""

import io
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

ROOT = Path(__file__).parents[1]
PREFIX = "{{ cookiecutter.__prefix }}"
OVERLAYS = sorted(path.parent.name for path in ROOT.glob("deploy/overlays/*/kustomization.yaml"))
HEALTH_PORT = {"server": "SERVER__PORT", "client": "CLIENT__HEALTH_PORT"}
"""The setting of the port that a program's probes use."""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH, and no cluster")


@cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pods that run this project's image, by the program in them."""
    specs = [item["spec"]["template"]["spec"] for item in objects(overlay) if item["kind"] == "Deployment"]
    return {spec["containers"][0]["name"]: spec for spec in specs}


@cache
def settings(overlay: str, program: str) -> dict[str, str]:
    """The settings in effect in a pod, as the program prints them; unknown names and invalid combinations are errors."""
    container = pods(overlay)[program]["containers"][0]
    maps = {item["metadata"]["name"]: item["data"] for item in objects(overlay) if item["kind"] == "ConfigMap"}
    given = {name: value for source in container["envFrom"] for name, value in maps[source["configMapRef"]["name"]].items()}
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    sources = {"fieldRef": "10.1.2.3", "resourceFieldRef": str(memory)}
    for entry in container.get("env", []):
        given[entry["name"]] = entry["value"] if "value" in entry else sources[next(iter(entry["valueFrom"]))]
    given.pop(f"{PREFIX}SETTINGS_DIR", None)  # a folder of the pod
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, *container["args"], "--print-settings"]
    environment = {**clean, **given, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT / "deploy", env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = dotenv_values(stream=io.StringIO(done.stdout), interpolate=False)
    return {name.removeprefix(PREFIX): value or "" for name, value in printed.items()}


def seconds(duration: str) -> float:
    """A printed duration in seconds."""
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders_with_settings_that_the_programs_know(overlay: str) -> None:
    """A mistyped setting would keep the pods from starting."""
    assert pods(overlay)
    for program in pods(overlay):
        assert settings(overlay, program)["LOG__FORMAT"] == "json"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_probes_ask_the_port_on_which_the_program_answers(overlay: str) -> None:
    """Liveness probes use the name that stays SERVING during a drain and while a registry is down."""
    for program, spec in pods(overlay).items():
        container, port = spec["containers"][0], int(settings(overlay, program)[HEALTH_PORT[program]])
        assert [entry["containerPort"] for entry in container["ports"]] == [port]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"]["port"] == port
        assert container["livenessProbe"]["grpc"]["service"] == "liveness"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_have_the_time_that_a_drain_takes(overlay: str) -> None:
    """The server's drain fits the pod's grace period; the client's timeout does too."""
    for program, spec in pods(overlay).items():
        given = settings(overlay, program)
        if program == "server":
            assert spec["terminationGracePeriodSeconds"] == seconds(given["SERVER__DRAIN__TERMINATION_GRACE"])
        else:
            assert spec["terminationGracePeriodSeconds"] >= seconds(given["CLIENT__TIMEOUT"]) + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_rolls_the_pods_and_no_pod_is_privileged(overlay: str) -> None:
    """A ConfigMap's name changes with its content; every pod fits the restricted Pod Security Standard."""
    for program, spec in pods(overlay).items():
        container = spec["containers"][0]
        assert all(len(source["configMapRef"]["name"].rpartition("-")[2]) == 10 for source in container["envFrom"]), program
        assert spec["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
