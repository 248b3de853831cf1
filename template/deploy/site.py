"""What the project was generated with, and what a site chooses in variables that make passes on, or a sentence that says what is wrong."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SLUG = "{{ cookiecutter.project_slug }}"
"""Begins every name in the cluster, and is the label app.kubernetes.io/part-of."""

IMAGE = "{{ cookiecutter.image_registry }}/{{ cookiecutter.project_slug }}"
"""The image's name without its tag, as server/ and client/ have it."""

DISCOVERY = "{{ cookiecutter.discovery }}"
"""The mode unless another is chosen."""

TOOLS = ("docker", "podman", "buildah")


class RefusedError(Exception):
    """Something that a person can correct; the text says what, and how."""


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


def need(program: str, remedy: str) -> str:
    """A program that must be on PATH."""
    if shutil.which(program) is None:
        raise RefusedError(f"'{program}' is not on PATH; {remedy}")
    return program


def run(*command: str, cwd: Path | None = None) -> None:
    """A command whose output people see. Raises RefusedError where it fails."""
    print("+ " + shlex.join(command), flush=True)
    if subprocess.run(command, cwd=cwd).returncode:
        raise RefusedError(f"'{shlex.join(command)}' has failed; its reason stands above")


def variables() -> Mapping[str, str]:
    return os.environ
