"""The workflows of this repository and of generated projects: which code they run, what their tokens may do, what linters say."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bake import ROOT, bake

from .conftest import alone

ACTIONLINT = "v1.7.12"
WRITES = {("release.yml", "publish"): {"packages": "write", "id-token": "write", "attestations": "write"}}
"""The jobs whose token may write, and what; that of any other may read the repository."""


@pytest.fixture(params=["repository", "project"])
def folder(request: pytest.FixtureRequest, project_of: Callable[[str], Path]) -> Path:
    """What holds `.github` and a Makefile."""
    return ROOT if request.param == "repository" else project_of("defaults")


@pytest.fixture
def project(project_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """The workflows of a default project, for the test to change."""
    shutil.copytree(project_of("defaults") / ".github", tmp_path / ".github")
    return tmp_path


def workflows(folder: Path) -> dict[str, dict[str, Any]]:
    """By file name."""
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted((folder / ".github/workflows").iterdir())}


def jobs(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By file name and job."""
    return {(name, job): jobs[job] for name, content in workflows(folder).items() for jobs in [content["jobs"]] for job in jobs}


def zizmor(folder: Path) -> set[str]:
    """The audits that found something. Jobs need no names beside their keys."""
    program = Path(sys.executable).with_name("zizmor")
    options = ("--offline", "--no-progress", "--persona=auditor", "--format=json")
    done = subprocess.run([program, *options, folder / ".github"], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return {finding["ident"] for finding in json.loads(done.stdout)} - {"anonymous-definition"}


def actionlint(folder: Path) -> str:
    """What it prints. Installs it once; skips the test where that is not possible."""
    program = ROOT / "build" / f"actionlint-{ACTIONLINT}" / "actionlint"
    program.parent.mkdir(parents=True, exist_ok=True)
    with alone(program.with_suffix(".lock")):
        if not program.exists():
            go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
            if go is None:
                pytest.skip("actionlint is built by Go: install it from https://go.dev/dl, and put it on the PATH")
            install = ["nice", go, "install", f"github.com/rhysd/actionlint/cmd/actionlint@{ACTIONLINT}"]
            done = subprocess.run(install, env={**os.environ, "GOBIN": str(program.parent)}, capture_output=True, text=True)
            if re.search(r"dial tcp|lookup |timeout|proxyconnect", done.stderr):
                pytest.skip(f"actionlint's Go modules cannot be downloaded: {done.stderr[-300:]}")
            assert done.returncode == 0, done.stderr[-3000:]
    paths = sorted((folder / ".github/workflows").iterdir())
    done = subprocess.run([program, "-no-color", *paths], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_zizmor_finds_nothing(folder: Path) -> None:
    """It knows what has gone wrong in other projects' workflows."""
    assert zizmor(folder) == set()


def test_actionlint_finds_nothing(folder: Path) -> None:
    """No runner is here to try a workflow on; it checks syntax, expressions, and contexts."""
    assert actionlint(folder) == ""


@pytest.mark.parametrize(
    ("file", "before", "after", "audit"),
    [
        ("ci.yml", r"@[0-9a-f]{40} # (v\d)", r"@\1 # \1", "unpinned-uses"),
        ("ci.yml", "permissions:\n  contents: read", "permissions: write-all", "excessive-permissions"),
        (
            "release.yml",
            "    permissions:\n",
            "    permissions:\n      actions: write\n      contents: write\n",
            "undocumented-permissions",
        ),
        ("ci.yml", r'AGAINST="origin/\$BASE"', 'AGAINST="origin/${{ github.head_ref }}"', "template-injection"),
        ("ci.yml", "pull_request:", "pull_request_target:", "dangerous-triggers"),
        ("ci.yml", "persist-credentials: false", "persist-credentials: true", "artipacked"),
    ],
)
def test_zizmor_finds_what_weakens_a_workflow(project: Path, file: str, before: str, after: str, audit: str) -> None:
    """The other test would pass if zizmor checked nothing."""
    path = project / ".github/workflows" / file
    changed, count = re.subn(before, after, path.read_text())
    assert count
    path.write_text(changed)
    assert audit in zizmor(project)


def test_actionlint_finds_what_would_fail_on_a_runner(project: Path) -> None:
    """The output of a step that does not exist would be empty, so nothing would be signed."""
    path = project / ".github/workflows/release.yml"
    path.write_text(path.read_text().replace("id: push", "id: publish"))
    assert 'property "push" is not defined' in actionlint(project)


def test_actions_are_pinned_by_commit_with_their_versions_beside(folder: Path) -> None:
    """A tag can be moved to other code. Without a version nobody can review an update, and Renovate proposes none."""
    for path in sorted((folder / ".github/workflows").iterdir()):
        for line in re.findall(r"uses: (.+)", path.read_text()):
            assert line.startswith("./") or re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_one_commit_of_each_action_is_in_use(project_of: Callable[[str], Path]) -> None:
    """An update changes all of them."""
    texts = [path.read_text() for folder in (ROOT, project_of("defaults")) for path in (folder / ".github/workflows").iterdir()]
    used = {line for text in texts for line in re.findall(r"uses: ([^.].+)", text)}
    assert len(used) == len({line.partition("@")[0] for line in used}), sorted(used)


def test_only_the_job_that_publishes_may_write(folder: Path) -> None:
    """A token that may write would be that of each dependency, too."""
    assert {content["permissions"] == {"contents": "read"} for content in workflows(folder).values()} == {True}
    found = {job: content["permissions"] for job, content in jobs(folder).items() if "permissions" in content}
    assert found == {job: rights for job, rights in WRITES.items() if job in jobs(folder)}


def test_a_job_that_may_write_runs_no_code_of_the_repository(folder: Path) -> None:
    """It gets files from the job before, and reads them with programs of the runner."""
    for job in WRITES.keys() & jobs(folder).keys():
        steps = jobs(folder)[job]["steps"]
        assert not any("actions/checkout@" in step.get("uses", "") or "make " in step.get("run", "") for step in steps)


def test_jobs_end_and_commands_have_no_expressions(folder: Path) -> None:
    """What others may write, such as the name of a branch, reaches a command as a variable."""
    for job, content in jobs(folder).items():
        assert "uses" in content or content["timeout-minutes"] <= 40, job
        assert not any("${{" in step.get("run", "") for step in content.get("steps", [])), job


def test_workflows_call_make_targets_that_exist(folder: Path) -> None:
    """What CI does, a person can do."""
    targets = set(re.findall(r"^([a-z-]+):", (folder / "Makefile").read_text(), re.MULTILINE))
    runs = [step.get("run", "") for content in jobs(folder).values() for step in content.get("steps", [])]
    called = {target for run in runs for target in re.findall(r"make ([a-z-]+)", run)}
    assert {"test", "lint", "audit"} <= called <= targets


def test_what_is_published_is_what_was_tested_and_scanned(project: Path) -> None:
    """One job builds, another one publishes its file; a second build could have other dependencies."""
    content = jobs(project)
    assert content["release.yml", "publish"]["needs"] == "ci"
    assert content["release.yml", "ci"]["uses"] == "./.github/workflows/ci.yml"
    *_, scan, save, upload = content["ci.yml", "image"]["steps"]
    assert "anchore/scan-action@" in scan["uses"]
    assert "fail-build" not in scan["with"]
    assert "image.tar" in save["run"]
    assert "image.tar" in upload["with"]["path"].split()
    download, _, push, *attest, _ = content["release.yml", "publish"]["steps"]
    assert download["with"]["name"] == upload["with"]["name"]
    assert "docker-archive:image.tar" in push["run"]
    assert [step["with"].get("sbom-path") for step in attest] == [None, "sbom.json"]
    assert not re.search(r"docker build|make image", str(content["release.yml", "publish"]))


def test_the_summary_of_a_release_has_the_lines_of_the_overlay_that_deploys_it(project_of: Callable[[str], Path]) -> None:
    """Name, digest, and the label with the version."""
    folder = project_of("defaults")
    *_, summary = jobs(folder)["release.yml", "publish"]["steps"]
    lines = re.findall(r"^ {4}(\S+): ", summary["run"], re.MULTILINE)
    assert lines == ["newName", "digest", "app.kubernetes.io/version"]
    overlay = (folder / "deploy/overlays/production/kustomization.yaml").read_text()
    assert all(f"{name}: " in overlay for name in lines)


def test_the_image_registry_of_the_answers_is_published_to(tmp_path: Path) -> None:
    """Without one, GitHub's; a variable of the repository changes it. The token of GitHub goes nowhere else."""
    project = bake(tmp_path, image_registry="registry.example.com/team")
    environment = jobs(project)["release.yml", "publish"]["env"]
    assert environment["REGISTRY"] == "${{ vars.IMAGE_REGISTRY || 'registry.example.com/team' }}"
    assert zizmor(project) == set()
    assert actionlint(project) == ""
