"""What the project was generated with, what a site chooses in variables that make passes on, and the overlay rendered with both."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kubectl import Kubectl, RefusedError, need

FOLDER = Path(__file__).parent
SLUG = "{{ cookiecutter.project_slug }}"
"""Begins every name in the cluster, and is the label app.kubernetes.io/part-of."""

IMAGE = "{{ cookiecutter.image_registry }}/{{ cookiecutter.project_slug }}"
"""The image's name without its tag, as server/ and client/ have it."""

DISCOVERY = "{{ cookiecutter.discovery }}"
"""The mode unless another is chosen."""

SERVER = f"{SLUG}-server"
CLIENT = f"{SLUG}-client"
ETCD_IMAGE = "gcr.io/etcd-development/etcd"
"""As components/etcd names it."""

PART_OF = f"app.kubernetes.io/part-of={SLUG}"
NAME = "app.kubernetes.io/name"
MODE = "discovery-mode"
"""The annotation of a Deployment that says in which mode it runs."""

TOOLS = ("docker", "podman", "buildah")


@dataclass(frozen=True, slots=True)
class Site:
    """image: with its tag; empty is chosen by the source's content.  load_image: a command that is given an image, or nothing.
    namespace: empty is the kubeconfig's own.  timeout: seconds that a rollout may take."""

    discovery: str
    components: tuple[str, ...]
    namespace: str
    image: str
    base_image: str
    container_tool: str
    load_image: str
    etcd_image: str
    build: bool
    dry_run: bool
    timeout: float

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Site":
        """Read the variables. Raises RefusedError for a value that cannot be."""
        try:
            timeout = float(variables.get("TIMEOUT") or 300)
        except ValueError:
            raise RefusedError(f"TIMEOUT={variables['TIMEOUT']} is not a number of seconds; write TIMEOUT=300") from None
        return cls(
            discovery=_one_of("DISCOVERY", variables.get("DISCOVERY") or DISCOVERY, _folders("overlays")),
            components=tuple(
                _one_of("COMPONENTS", name, _folders("components"))
                for name in variables.get("COMPONENTS", "").replace(",", " ").split()
            ),
            namespace=variables.get("NAMESPACE", ""),
            image=variables.get("IMAGE", ""),
            base_image=variables.get("BASE_IMAGE", ""),
            container_tool=variables.get("CONTAINER_TOOL", ""),
            load_image=variables.get("LOAD_IMAGE", ""),
            etcd_image=variables.get("ETCD_IMAGE", ""),
            build=_switch("BUILD", variables.get("BUILD", ""), True),
            dry_run=_switch("DRY_RUN", variables.get("DRY_RUN", ""), False),
            timeout=timeout,
        )

    def tool(self) -> str:
        """The program that builds images."""
        if self.container_tool:
            return need(self.container_tool, "CONTAINER_TOOL names it; choose docker, podman or buildah")
        for name in TOOLS:
            if shutil.which(name):
                return name
        raise RefusedError(
            f"none of {', '.join(TOOLS)} is on PATH to build the image; install one, or deploy a ready image with BUILD=no IMAGE=..."
        )


def _folders(kind: str) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in (FOLDER / kind).glob("*/kustomization.yaml")))


def _one_of(variable: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise RefusedError(f"{variable}={value} is not in this project; choose one of {', '.join(known)}")
    return value


def _switch(variable: str, value: str, default: bool) -> bool:
    known = {"": default, "1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
    if value.lower() not in known:
        raise RefusedError(f"{variable}={value} is neither yes nor no; write {variable}=1 or {variable}=0")
    return known[value.lower()]


def variables() -> Mapping[str, str]:
    return os.environ


def render(kubectl: Kubectl, site: Site, image: str, replicas: dict[str, int] | None = None, min_ready: int = 0) -> str:
    """YAML. replicas: numbers that existing Deployments have, and keep.  min_ready: seconds, where the overlay asks for fewer."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        layer: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [_from(place, FOLDER / "overlays" / site.discovery)],
            "components": [_from(place, FOLDER / "components" / name) for name in site.components],
            "images": [{"name": IMAGE, **_parts(image)}],
            "patches": [_patch(f"{SERVER}|{CLIENT}", {"metadata": {"annotations": {MODE: site.discovery}}})],
        }
        for name, count in (replicas or {}).items():
            layer["patches"].append(_patch(name, {"spec": {"replicas": count}}))
        if site.etcd_image:
            layer["images"].append({"name": ETCD_IMAGE, **_parts(site.etcd_image)})
        if site.namespace:
            layer["namespace"] = site.namespace
        if min_ready:
            layer["patches"].append(_patch(SERVER, {"spec": {"minReadySeconds": min_ready}}))
        (place / "kustomization.yaml").write_text(json.dumps(layer))
        return kubectl.call("kustomize", str(place))


def _patch(name: str, change: dict[str, Any]) -> dict[str, Any]:
    """A change to the Deployments whose name fits; to none where the project has no such one."""
    whole = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "any"}}
    whole["metadata"] |= change.pop("metadata", {})
    return {"target": {"kind": "Deployment", "name": name}, "patch": json.dumps(whole | change)}


def _from(place: Path, other: Path) -> str:
    """kustomize takes relative paths only."""
    return os.path.relpath(other.resolve(), place)


def _parts(image: str) -> dict[str, str]:
    """An image's name and tag, or digest, as kustomize wants them."""
    name, at, digest = image.partition("@")
    if at:
        return {"newName": name, "digest": digest}
    name, colon, tag = image.rpartition(":")
    return {"newName": name, "newTag": tag} if colon and "/" not in tag else {"newName": image, "newTag": "latest"}
