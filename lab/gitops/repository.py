"""A copy of the project, in which files are edited as its owner does."""

import os
import re
import shutil
from pathlib import Path

import yaml

from lab.experiment.cluster import Cluster, ExperimentError

RATE = 50
"""Calls that its load generator makes, each second."""


class Repository:
    """A copy of the project, in which files are edited as its owner does."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.folder, self._cluster = folder, cluster
        unwanted = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".env", "certs")
        shutil.copytree(cluster.project.folder, folder, ignore=unwanted)
        self.setting("load-generator", "CLIENT__RATE", str(RATE))
        self.setting("load-generator", "CLIENT__TIMEOUT", "10s")  # which a busy machine keeps
        self.setting("load-generator", "CLIENT__RETRY__ATTEMPTS", "1")
        for path in (folder / "deploy").rglob("*.yaml"):  # room for the pods of a rollout on one small node
            path.write_text(path.read_text(encoding="utf-8").replace("cpu: 100m", "cpu: 10m"), encoding="utf-8")
        if "ETCD_IMAGE" in os.environ:
            self.edit("components/etcd/etcd.yaml", r"gcr.io/etcd-development/etcd:\S+", os.environ["ETCD_IMAGE"])

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace what a pattern finds in a file of deploy/. Raises ExperimentError where it finds nothing."""
        file = self.folder / "deploy" / path
        text, count = re.subn(old, new, file.read_text(encoding="utf-8"))
        if not count:
            raise ExperimentError(f"deploy/{path} has no {old}, which the lab would replace")
        file.write_text(text, encoding="utf-8")

    def setting(self, workload: str, name: str, value: str) -> None:
        """A setting of the server or the load generator, named without the project's prefix."""
        path, full = f"{workload}/deployment.yaml", f"{self._cluster.project.prefix}{name}"
        entry = f'            - {{name: {full}, value: "{value}"}}\n'
        file = self.folder / "deploy" / path
        text = re.sub(rf" +- {{name: {full}, .*\n", "", file.read_text(encoding="utf-8"))
        file.write_text(text.replace("          env:\n", f"          env:\n{entry}"), encoding="utf-8")

    def name_image(self, image: str) -> None:
        """In the one place."""
        name, _, tag = image.rpartition(":")
        self.edit("components/image/kustomization.yaml", "newName: .*", f"newName: {name}")
        self.edit("components/image/kustomization.yaml", "newTag: .*", f'newTag: "{tag}"')

    def images(self, image: str) -> list[dict[str, str]]:
        """The same from outside, for Flux's Kustomization."""
        name, _, tag = image.rpartition(":")
        component = (self.folder / "deploy" / "components" / "image" / "kustomization.yaml").read_text(encoding="utf-8")
        return [{"name": yaml.safe_load(component)["images"][0]["newName"], "newName": name, "newTag": tag}]
