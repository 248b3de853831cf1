"""After everything is written: take away what the answers leave out, and say how to go on."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

MANIFEST = {
    # registry: what belongs to it alone, below src/discovery
    "dns": ("sources/dns.py", "tests/conformance/dns.py", "tests/test_dns.py"),
    "etcd": (
        "sources/etcd.py", "tests/conformance/etcd.py", "tests/test_etcd.py",
        "tests/test_etcd_values.py", "tests/test_registrar.py",
    ),
    "kubernetes": (
        "sources/endpoint_slices.py", "sources/kubernetes.py", "tests/cluster_api.py", "tests/conformance/kubernetes.py",
        "tests/test_endpoint_slices.py", "tests/test_kubernetes.py", "tests/test_kubernetes_faults.py",
    ),
}  # fmt: skip
DEPLOYED = {
    # and what belongs to it below deploy
    "dns": ("overlays/dns",),
    "etcd": ("components/etcd", "components/etcd-external", "overlays/etcd", "overlays/etcd-external"),
    "kubernetes": ("components/rbac", "overlays/kubernetes"),
}
"""A path that does not exist is a mistake: the lists and the template must agree."""


def left_out(answers: Mapping[str, str]) -> Iterator[str]:
    """The paths that the answers leave out."""
    if answers["registries"] == "chosen":
        for registry, paths in MANIFEST.items():
            if registry != answers["discovery"]:
                yield from (f"src/discovery/{path}" for path in paths)
                yield from (f"deploy/{path}" for path in DEPLOYED[registry])


def apply(root: Path, answers: Mapping[str, str]) -> None:
    """Delete them. Raises FileNotFoundError where the manifest names what is not there."""
    for path in left_out(answers):
        place = root / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def clear_caches(root: Path) -> None:
    """Delete compiled Python: a checkout in which somebody has worked holds some, and cookiecutter copies all that lies in it."""
    for cache in list(root.rglob("__pycache__")):
        shutil.rmtree(cache)


def next_steps(answers: Mapping[str, str]) -> str:
    """What to do now."""
    return f"""
{answers["project_name"]} is in {answers["project_slug"]}/. Go on with:

  cd {answers["project_slug"]}
  make demo    servers come and go while a client calls (about a minute)
  make test    all tests
  make deploy  both on the cluster of your kubeconfig
  make         everything else
"""


def main(answers: Mapping[str, str]) -> None:
    """Called in the new project's folder."""
    apply(Path.cwd(), answers)
    clear_caches(Path.cwd())
    print(next_steps(answers))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
