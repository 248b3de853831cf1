"""After everything is written: take away what the answers leave out, and say how to go on."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
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

LIBRARIES = {"dns": "dnspython", "kubernetes": "kubernetes"}
"""What a registry alone needs to be installed."""

LOCKS = ("dev.lock", "image.lock")


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


def without(lock: str, libraries: AbstractSet[str]) -> str:
    """A lock that uv has written less these libraries and what only they want, as `make lock` would write it.

    Raises LookupError for a library that is not in it.
    """
    pins = [  # name, what wants it, text; a name may come twice, for two kinds of machine
        (text.partition("==")[0], re.findall(r"^    #(?: via|  ) (\S.*)", text, re.MULTILINE), text)
        for text in re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]
    ]
    if missing := libraries - {name for name, *_ in pins}:
        raise LookupError(f"the lock holds no {', '.join(sorted(missing))}")
    gone = set(libraries)
    while more := {name for name, wanted_by, _ in pins if name not in gone and gone.issuperset(wanted_by)}:
        gone |= more
    kept = ""
    for name, wanted_by, text in pins:
        if name not in gone:
            by = [each for each in wanted_by if each not in gone]
            via = f" {by[0]}" if len(by) == 1 else "".join(f"\n    #   {each}" for each in by)
            kept += text.partition("    # via")[0] + f"    # via{via}\n"
    return kept


def apply_to_locks(root: Path, answers: Mapping[str, str]) -> None:
    """Take out of the locks what only other registries need."""
    if answers["registries"] == "chosen":
        libraries = {library for registry, library in LIBRARIES.items() if registry != answers["discovery"]}
        for path in (root / "requirements" / name for name in LOCKS):
            path.write_text(without(path.read_text(encoding="utf-8"), libraries), encoding="utf-8")


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
    apply_to_locks(Path.cwd(), answers)
    clear_caches(Path.cwd())
    print(next_steps(answers))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
