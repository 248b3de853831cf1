"""One overlay with what the site has chosen, rendered: text that kubectl applies."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .kubectl import Kubectl
from .site import FOLDER, IMAGE, SLUG, Site

SERVER = f"{SLUG}-server"
CLIENT = f"{SLUG}-client"
ETCD_IMAGE = "gcr.io/etcd-development/etcd"
"""As components/etcd names it."""

PART_OF = f"app.kubernetes.io/part-of={SLUG}"
NAME = "app.kubernetes.io/name"
MODE = "discovery-mode"
"""The annotation of a Deployment that says in which mode it runs."""


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
