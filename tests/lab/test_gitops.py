"""What surrounds Flux in `python -m lab.gitops`, without Flux and without a cluster."""

import json
import shutil
import stat
import tarfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lab.experiment.cluster import Cluster, ExperimentError
from lab.gitops.flux import CONTROLLER, VERSIONS, Flux, Sync
from lab.gitops.page import render
from lab.gitops.repository import Repository
from lab.gitops.steps import Step
from lab.project import Project


@pytest.fixture
def repository(project: Project, tmp_path: Path) -> Repository:
    """A copy of the project's files."""
    return Repository(Cluster(project, "none"), tmp_path / "repository")


def test_a_setting_is_there_once_and_the_image_is_named_in_one_place(repository: Repository, project: Project) -> None:
    """However often it is set; the project itself is as before."""
    for value in ("7s", "8s"):
        repository.setting("server", "SERVER__DRAIN__WAIT", value)
    [_, deployment, _] = yaml.safe_load_all((repository.folder / "deploy/server/deployment.yaml").read_text())
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [each["value"] for each in env if each["name"] == "GREETER__SERVER__DRAIN__WAIT"] == ["8s"]
    assert '"8s"' not in (project.folder / "deploy/server/deployment.yaml").read_text()
    before = repository.images("localhost:5000/team/greeter:1.2")
    assert before == [{"name": "localhost/greeter", "newName": "localhost:5000/team/greeter", "newTag": "1.2"}]
    repository.name_image("localhost:5000/team/greeter:1.2")
    component = yaml.safe_load((repository.folder / "deploy/components/image/kustomization.yaml").read_text())
    assert component["images"] == [{"name": "greeter", "newName": "localhost:5000/team/greeter", "newTag": "1.2"}]


def test_an_edit_that_finds_nothing_is_an_error(repository: Repository) -> None:
    """So that no step of the run changes nothing."""
    with pytest.raises(ExperimentError, match="minReplicas: 99"):
        repository.edit("components/autoscale/autoscaler.yaml", "minReplicas: 99", "minReplicas: 5")


def test_a_commit_is_an_archive_that_flux_can_fetch(
    repository: Repository, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact names an address at which the project's files are, and another revision after each edit."""
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        f'#!/bin/sh\nfor last; do case "$last" in --patch=*) echo "${{last#--patch=}}" >> {tmp_path}/patches;; esac; done\n'
    )
    kubectl.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:{Path(shutil.which('sh') or '/bin/sh').parent}")
    sync = Sync(Cluster(project, "none"), tmp_path / "served", repository.folder)
    with sync.created(path="./deploy/overlays/kubernetes"):
        sync.commit()
        repository.name_image("registry.example.com/greeter:2")
        sync.commit()
        first, second = [json.loads(line)["status"]["artifact"] for line in (tmp_path / "patches").read_text().splitlines()]
        assert first["revision"] != second["revision"]
        with urllib.request.urlopen(second["url"]) as answer, tarfile.open(fileobj=answer, mode="r|gz") as archive:
            assert "./deploy/overlays/kubernetes/kustomization.yaml" in archive.getnames()


def test_only_resource_definitions_that_were_not_there_are_removed(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a Flux that runs on the cluster stay; and the controller is ended."""
    for name in ("there", "new"):
        (tmp_path / f"{name}.yaml").write_text(f"metadata: {{name: {name}.example.com}}")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        'case "$*" in *" get "*) echo customresourcedefinition.apiextensions.k8s.io/there.example.com;; esac\n'
    )
    controller = tmp_path / f"kustomize-controller-{VERSIONS[CONTROLLER]}"
    controller.write_text(
        f"#!/bin/sh\ntrap 'echo ended > {tmp_path}/ended; exit' TERM\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.1; done\n"
    )
    for program in (kubectl, controller):
        program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    flux = Flux(tmp_path)
    monkeypatch.setattr(flux, "definitions", lambda: [tmp_path / "there.yaml", tmp_path / "new.yaml"])
    with flux.running(Cluster(project, "none")):
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
    assert (tmp_path / "ended").exists()
    asked = (tmp_path / "asked").read_text()
    assert [line.split()[1] for line in asked.splitlines()] == ["get", "create", "wait", "delete"]
    assert "there.yaml" not in asked


def test_the_page_has_each_step() -> None:
    """With the failed calls, and what was not as promised."""
    text = render(
        [Step("a change", 12.3, 100, Counter(UNAVAILABLE=2), ""), Step("another", 1.0, 5, Counter(), "not pruned: x")], "one"
    )
    assert "| a change | 12 s | 2 UNAVAILABLE of 100 | yes |" in text
    assert "| another | 1 s | 0 of 5 | not pruned: x |" in text
