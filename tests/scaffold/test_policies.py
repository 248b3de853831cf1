"""deploy/ under a policy linter, kube-score: every finding is mended, or is in one table with the reason why not."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bake import ROOT

from .rendered import COMPONENTS, NEEDS_KUBECTL, OVERLAYS, folder_of, text

pytestmark = NEEDS_KUBECTL

MODULE = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"
PROGRAM = ROOT / "build" / "kube-score"
NEWEST = "v1.37"

EXEMPT = {
    "CPU limit is not set": "Throttling looks like a slow server; the request gives each pod its share.",
    "Image with latest tag": "The tag is the deployer's: components/image, `make deploy`, or a GitOps tool sets it.",
    "ImagePullPolicy is not set to Always": "A tag by content or a digest never moves; an image that was loaded cannot be pulled.",
    "Deployment does not have a host podAntiAffinity set": "topologySpreadConstraints spread the servers.",
    "StatefulSet does not have a valid serviceName": "An etcd for trials has one member, which nobody calls by the pod's name.",
    "Memory requests does not match limits": "Memory may grow to the limit; most pods need less.",
    "CPU requests does not match limits": "There is no limit of CPU.",
    "Ephemeral Storage request does not match limit": "The limit stops what runs wild; scheduling by it would waste nodes.",
}
"""What is not as kube-score recommends, by the finding's words, and why."""

PRODUCTION_MUST = {"Image with latest tag"}
"""Exemptions that do not hold there."""


@pytest.fixture(scope="module")
def linter() -> Path:
    """Built once from its Go module."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    PROGRAM.parent.mkdir(exist_ok=True)
    with open(f"{PROGRAM}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not PROGRAM.exists():
            if go is None:
                pytest.skip("needs Go, which builds kube-score: https://go.dev/dl")
            environment = {**os.environ, "GOBIN": str(PROGRAM.parent)}
            done = subprocess.run([go, "install", MODULE], env=environment, capture_output=True, text=True, timeout=500)
            assert done.returncode == 0, done.stderr
    return PROGRAM


def findings(linter: Path, manifests: str) -> set[str]:
    """Of all checks, also those that are off by default: the words of each that is not met, with the check's and the object's name."""
    command = [str(linter), "score", "-", "--output-format=json", "--all-default-optional", f"--kubernetes-version={NEWEST}"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, timeout=60)
    checked = json.loads(done.stdout)
    assert checked, done.stderr
    return {
        f"{comment['summary']}\n{check['check']['id']}: {item['object_name']}"
        for item in checked
        for check in item["checks"]
        if not check["skipped"] and check["grade"] < 10
        for comment in check["comments"] or [{"summary": "no comment"}]
    }


def summaries(found: set[str]) -> set[str]:
    """Their words alone."""
    return {each.partition("\n")[0] for each in found}


@pytest.mark.parametrize("components", [(), COMPONENTS], ids=["alone", "all"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_finding_of_the_linter_is_explained(linter: Path, overlay: str, components: tuple[str, ...]) -> None:
    """Of every overlay as it lies, and with all components that fit."""
    allowed = EXEMPT.keys() - (PRODUCTION_MUST if overlay == "production" else set())
    assert {
        each for each in findings(linter, text(folder_of(overlay, *components))) if each.partition("\n")[0] not in allowed
    } == set()


def test_no_exemption_is_left_over(linter: Path) -> None:
    """Each is needed by an overlay."""
    found = set[str]().union(*(findings(linter, text(folder_of(overlay))) for overlay in OVERLAYS))
    assert EXEMPT.keys() - summaries(found) == set()


def test_the_linter_finds_what_is_wrong(linter: Path) -> None:
    """A pod that may write to its root, a probe that is missing, a policy that selects nobody."""
    manifests = text(folder_of("dns"))
    broken = manifests.replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false").replace(
        "kind: NetworkPolicy", "kind: None"
    )
    assert len(summaries(findings(linter, broken)) - EXEMPT.keys()) >= 2
