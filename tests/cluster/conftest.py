"""One project and one image for all tests of this folder, and the deployments that they share: one for each overlay."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bake import ROOT, SLUG, bake

from .credentials import an_etcd_of_your_own, renew
from .deployed import ETCD_IMAGE, Deployed, Object, kubectl, variables

RUN = uuid.uuid4().hex[:6]
REPOSITORY = f"localhost/cluster-{RUN}"
TOOL = os.environ.get("CONTAINER_TOOL", "buildah")

OVERLAYS = ("kubernetes", "dns", "etcd", "etcd-external", "native-dns", "passthrough", "production")
PLAIN = ("dns", "etcd", "passthrough", "production")
"""Deployed by `kubectl apply -k` at first, and the others by `make deploy`."""


def content_tag(project: Path) -> str:
    """The image that make builds."""
    command = [sys.executable, "-B", "deploy/deploy.py", "image"]
    environment = {key: value for key, value in os.environ.items() if key != "IMAGE"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default project below a folder called tests, with files that only their owner can read, and its image, built and loaded
    once. Its overlays name that image."""
    folder = tmp_path_factory.mktemp("main") / "tests"
    folder.mkdir()
    made = bake(folder)
    there = Deployed(made, "", "")
    there.quicken()
    there.name_image(f"{REPOSITORY}:latest")
    there.make("stubs", VENV=str(ROOT / "build" / "venv"))
    for path in made.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    there.make("image")
    there.make("load")
    image = content_tag(made)
    there.name_image(image)
    yield made
    subprocess.run([TOOL, "rmi", image], capture_output=True)


@pytest.fixture(scope="session")
def image(project: Path) -> str:
    return content_tag(project)


def namespace(name: str, *, enforce: str = "restricted") -> str:
    """A new one. It admits only pods that keep this standard."""
    labels = {"pod-security.kubernetes.io/enforce": enforce}
    kubectl("create", "-f", "-", given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


def neighbors(where: str) -> list[Object]:
    """What others have in the namespace: with the project's labels, and with names that other overlays have, without their label."""
    labels = {f"app.kubernetes.io/{key}": SLUG for key in ("part-of", "instance")} | {"app.kubernetes.io/managed-by": "kustomize"}
    pod = {"metadata": {"labels": {"app": "neighbor", **labels}}, "spec": {"containers": [{"name": "one", "image": "one"}]}}
    workload = {"replicas": 0, "selector": {"matchLabels": {"app": "neighbor"}}, "template": pod}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "neighbor"}
    kinds: list[Object] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}},
        {"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "b"}},
        {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None", "ports": [{"port": 1}], "selector": {"app": "neighbor"}}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": workload},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {**workload, "serviceName": "neighbor"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": rules},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {"matchLabels": {"app": "neighbor"}}}},
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": {"maxReplicas": 2, "scaleTargetRef": target}},
    ]  # fmt: skip
    taken = {"StatefulSet": f"{SLUG}-etcd", "Service": f"{SLUG}-etcd", "HorizontalPodAutoscaler": f"{SLUG}-server"}
    made = [{**item, "metadata": {"name": "neighbor", "namespace": where, "labels": labels}} for item in kinds]
    return made + [
        {**item, "metadata": {**item["metadata"], "name": taken[item["kind"]]}} for item in made if item["kind"] in taken
    ]


def of_neighbors(where: str) -> str:
    """All that kubectl shows of them, less what controllers write without being asked."""
    found = [json.loads(kubectl("get", "-f", "-", "-o", "json", given=item)) for item in neighbors(where)]
    for item in found:
        item.pop("status", None)
        if item["kind"] == "HorizontalPodAutoscaler":  # its controller reports every 15 s
            item["metadata"].pop("resourceVersion")
    return json.dumps(found, indent=1)


@pytest.fixture(scope="session")
def deployments(project: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Deployed]]:
    """One for each overlay, by its name, each in a namespace of its own that admits restricted pods only.

    kubernetes: 100 calls a second, and nothing is retried. native-dns: another project, beside that of passthrough. passthrough: with
    neighbors. production: with certificates.
    """
    where = {overlay: f"cluster-{RUN}-{overlay}" for overlay in OVERLAYS if overlay != "native-dns"}
    where["native-dns"] = where["passthrough"]
    folders = {overlay: tmp_path_factory.mktemp(overlay) / SLUG for overlay in OVERLAYS}
    made = {overlay: Deployed(shutil.copytree(project, folders[overlay]), where[overlay], image) for overlay in OVERLAYS}
    # The same package's name, so that both projects can share an image.
    other = bake(tmp_path_factory.mktemp("other"), project_name="Other", package_name=SLUG)
    made["native-dns"] = Deployed(other, where["native-dns"], image)
    made["native-dns"].quicken()
    made["kubernetes"].setting("load-generator", **variables(CLIENT__RATE="100", CLIENT__RETRY__ATTEMPTS="1"))
    made["etcd"].edit("components/etcd/etcd.yaml", "gcr.io/etcd-development/etcd:v[0-9.]+", ETCD_IMAGE)
    try:
        for overlay, name in where.items():
            if overlay != "native-dns":
                namespace(name, enforce="baseline" if overlay == "etcd-external" else "restricted")
        kubectl("create", "-f", "-", given=neighbors(made["passthrough"].namespace))
        with ThreadPoolExecutor(len(OVERLAYS)) as pool:
            list(pool.map(lambda overlay: deploy(made[overlay], overlay, tmp_path_factory.mktemp("files")), OVERLAYS))
        yield made
    finally:
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *set(where.values()))


def deploy(there: Deployed, overlay: str, files: Path) -> None:
    """The first time, as the docs of the overlay say."""
    if overlay == "etcd-external":
        an_etcd_of_your_own(there, files)
        there.edit(
            "overlays/etcd-external/kustomization.yaml", re.escape("https://etcd.example.com:2379"), "https://own-etcd:2379"
        )
    if overlay == "production":
        renew(there)
        repository, _, tag = there.image.rpartition(":")
        place = "overlays/production/kustomization.yaml"
        there.edit(place, "name: localhost/.*", f"name: {repository}")
        there.edit(place, "newName: .*", f"newName: {repository}")
        there.edit(place, "digest: .*", f'newTag: "{tag}"')
        there.edit(place, "version: .*", f'version: "{tag}"}}')
    if overlay in PLAIN:
        there.apply(overlay)
        there.rolled_out()
    else:
        # Once as most people do: make builds the image, and loads it.
        there.make("deploy", ENV=overlay, IMAGE="" if overlay == "kubernetes" else there.image)
