"""The manifests, rendered by kubectl without a cluster: every overlay, checked against the programs' settings."""

import io
import os
import re
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
EXAMPLES = {"status.podIP": "10.1.2.3"}
"""What only a running pod has."""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH, and no cluster")


@cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pods of the Deployments, by the program in them."""
    specs = [item["spec"]["template"]["spec"] for item in objects(overlay) if item["kind"] == "Deployment"]
    return {spec["containers"][0]["name"]: spec for spec in specs}


@cache
def settings(overlay: str, program: str) -> dict[str, str]:
    """The settings in effect in a pod, as the program prints them; unknown names and invalid combinations are errors."""
    container, given = pods(overlay)[program]["containers"][0], dict[str, str]()
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        value = str(memory) if "resourceFieldRef" in source else EXAMPLES.get(source.get("fieldRef", {}).get("fieldPath"), "")
        given[entry["name"]] = entry.get("value", value)
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
def test_a_variable_refers_to_those_before_it_and_no_name_is_there_twice(overlay: str) -> None:
    """Kubernetes replaces $(NAME) by what comes before, and server-side apply refuses a name that is there twice."""
    for spec in pods(overlay).values():
        names = list[str]()
        for entry in spec["containers"][0]["env"]:
            assert {*re.findall(r"\$\((\w+)\)", entry.get("value", ""))} <= {*names}, entry
            assert entry["name"] not in names
            names.append(entry["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_probes_ask_a_port_on_which_the_program_answers_without_tls(overlay: str) -> None:
    """Liveness probes use the name that stays SERVING during a drain and while a registry is down."""
    for program, spec in pods(overlay).items():
        container, given = spec["containers"][0], settings(overlay, program)
        ports = ["SERVER__HEALTH_PORT", "SERVER__PORT"] if program == "server" else ["CLIENT__HEALTH_PORT"]
        port = next(int(given[name]) for name in ports if given[name] != "none")
        assert port in [entry["containerPort"] for entry in container["ports"]]
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
def test_an_image_by_digest_is_the_one_that_runs(overlay: str) -> None:
    """`images` of an overlay names an image as components/image does; otherwise kustomize would leave it out without a word."""
    images = yaml.safe_load((ROOT / "deploy/overlays" / overlay / "kustomization.yaml").read_text()).get("images", [])
    for image in [f"{item['newName']}@{item['digest']}" for item in images if "digest" in item]:
        assert {spec["containers"][0]["image"] for spec in pods(overlay).values()} == {image}
