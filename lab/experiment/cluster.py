"""A project on the cluster, by kubectl and a kustomization on top of the project's overlays: deploy it, change it, break it."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.project import Project, last_lines

PATIENCE = 300.0
"""Seconds that anything on the cluster may take."""
WORKLOADS = {"server": "server", "client": "load-generator"}
"""What the Deployments of each component are named, after the project's name."""
NO_IMAGE = ("ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
BUILD = "lab-image: ; @$(if $(IMAGE),,$(MAKE) image $(if $(LOAD_IMAGE),load,push) >&2 &&) $(deploy) image"
"""A target for the project's Makefile: the image, built and brought to the cluster as for `make deploy`; prints its name."""
SIGKILL = """
import os, pathlib, signal
for place in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b".server\\0" in place.read_bytes():
        os.kill(int(place.parent.name), signal.SIGKILL)
"""
"""In a server's container: its process, which is not number 1 where the pod's containers share a process namespace."""


class ExperimentError(Exception):
    """The experiment cannot go on; the text says why, and what to do."""


@dataclass(frozen=True)
class Site:
    """What is particular to a place: shell commands that disturb the cluster's own parts. Empty is not done here."""

    stop_api: str = ""
    start_api: str = ""
    restart_dns: str = ""


def patch(selector: str, path: str, value: object) -> dict[str, Any]:
    """A patch of kustomize's: a value in the Deployments that a selector of labels selects."""
    return {
        "target": {"kind": "Deployment", "labelSelector": selector},
        "patch": yaml.safe_dump([{"op": "add", "path": path, "value": value}]),
    }


SHARED_PROCESSES = patch("app.kubernetes.io/component=server", "/spec/template/spec/shareProcessNamespace", True)
"""So that `kill` can reach the server's process: number 1 of a process namespace ignores SIGKILL from inside."""


class Cluster:
    """One project's server and client in one namespace of the current KUBECONFIG."""

    def __init__(self, project: Project, namespace: str) -> None:
        self.project = project
        self.slug = project.slug
        self.namespace = namespace
        self._image = ""

    def command(self, *arguments: str) -> list[str]:
        """kubectl in this namespace."""
        return ["kubectl", f"--namespace={self.namespace}", *arguments]

    def kubectl(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """What it prints. Raises ExperimentError."""
        return _run(self.command(*arguments), timeout)

    def about(self) -> str:
        """The cluster, so that it is not mistaken for another. Raises ExperimentError where there is none."""
        version, nodes = self.check()
        context = self.kubectl("config", "current-context").strip()
        return f"context {context}: Kubernetes {version}, {nodes} node{'s' if nodes > 1 else ''}"

    def check(self) -> tuple[str, int]:
        """The cluster's version, and how many nodes it has. Raises ExperimentError where there is none."""
        for tool in ("kubectl", "make"):
            if shutil.which(tool) is None:
                raise ExperimentError(f"{tool} is not on PATH; install it")
        version = json.loads(self.kubectl("get", "--raw", "/version", "--request-timeout=10s", timeout=20))
        nodes = self.kubectl("get", "nodes", "--output=name").split()
        return str(version["gitVersion"]), len(nodes)

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """The namespace, for this while; it stays if it was there before. Raises ExperimentError."""
        was_there = self.kubectl("get", "namespace", self.namespace, "--ignore-not-found", "--output=name")
        if not was_there:
            self.kubectl("create", "namespace", self.namespace)
        try:
            yield
        finally:
            if not was_there:
                self.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def image(self) -> str:
        """Its name; built once, and loaded or pushed, unless the environment names one."""
        if not self._image:
            command = [*self.project.make_command("lab-image"), f"--eval={BUILD}"]
            self._image = _run(command, 600, self.project.make_environment()).strip()
        return self._image

    def deploy(self, mode: str, *patches: Mapping[str, Any]) -> None:
        """`kubectl apply -k` of the mode's overlay with patches, and wait until all is ready."""
        self.apply(mode, *patches)
        for component in WORKLOADS:
            self.rolled_out(component)

    def apply(self, mode: str, *patches: Mapping[str, Any]) -> None:
        """`kubectl apply -k` of the mode's overlay with patches. Comes back at once."""
        with self._layered(mode, patches) as folder:
            self.kubectl("apply", "--kustomize", folder)

    def names(self, mode: str) -> set[str]:
        """Of the objects in the mode's overlay, as resource.group/name."""
        with self._layered(mode) as folder:
            return set(self.kubectl("create", "--dry-run=client", "--output=name", "--kustomize", folder).split())

    @contextlib.contextmanager
    def _layered(self, mode: str, patches: Sequence[Mapping[str, Any]] = ()) -> Iterator[str]:
        """A folder with a kustomization on top of an overlay of the project: it names the images, and asks for little CPU, so that the
        pods of a rollout fit on one small node."""
        ours = "app.kubernetes.io/component in (server, client)"
        container = "/spec/template/spec/containers/0"
        with tempfile.TemporaryDirectory() as folder:
            overlay = self.project.folder / "deploy" / "overlays" / mode
            etcd, _, tag = os.environ.get("ETCD_IMAGE", "").rpartition(":")
            kustomization = {
                # kustomize takes no absolute path, and resolves links.
                "resources": [os.path.relpath(overlay.resolve(), Path(folder).resolve())],
                "images": [{"name": "gcr.io/etcd-development/etcd", "newName": etcd, "newTag": tag}] if etcd else [],
                "patches": [
                    patch(ours, f"{container}/image", self.image()),
                    patch(ours, f"{container}/resources/requests/cpu", "10m"),
                    *patches,
                ],
            }
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
            yield folder

    def settings(self, component: str, **settings: str) -> dict[str, Any]:
        """A patch: settings of the server or the client, named without the project's prefix."""
        name = WORKLOADS[component]
        values = [{"name": name, "value": value} for name, value in self.project.prefixed(settings).items()]
        containers = [{"name": name, "env": values}]
        template = {"spec": {"containers": containers}}
        workload = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"{self.slug}-{name}"}}
        return {"patch": yaml.safe_dump({**workload, "spec": {"template": template}})}

    def undeploy(self) -> None:
        """`make undeploy`, which waits until no pod is left."""
        self._make("undeploy")

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/part-of={self.slug}"

    def scale(self, pods: int) -> None:
        """The servers. Comes back at once."""
        self.kubectl("scale", f"deployment/{self.slug}-server", f"--replicas={pods}")

    def roll_out(self) -> None:
        """A new version of the servers. Comes back when all are new."""
        self.kubectl("rollout", "restart", f"deployment/{self.slug}-server")
        self.rolled_out("server")

    def set(self, role: str, **settings: str) -> None:
        """Change settings of the server or the client, named without the project's prefix, which rolls it out. Comes back when that is done."""
        pairs = [f"{name}={value}" for name, value in self.project.prefixed(settings).items()]
        self.kubectl("set", "env", self._workload(role), *pairs)
        self.rolled_out(role)

    def rolled_out(self, role: str) -> None:
        """Wait until all pods are new and ready. Raises ExperimentError with what the pods wait for, as soon as that is an image that
        cannot be had."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.kubectl("rollout", "status", self._workload(role), "--timeout=5s")
            except ExperimentError as error:
                waiting = self._waiting()
                if time.monotonic() > end or any(reason in NO_IMAGE for _, reason, _ in waiting):
                    reasons = "; ".join(map(": ".join, waiting))
                    raise ExperimentError(f"{error}; pods that wait: {reasons or 'none'}") from None
            else:
                return

    def _waiting(self) -> list[tuple[str, str, str]]:
        """What pods wait for, those that have no node included: the name, the reason, the message."""
        pods = json.loads(self.kubectl("get", "pods", f"--selector={self.selector}", "--output=json"))["items"]
        found = list[tuple[str, str, str]]()
        for pod in pods:
            states = [container["state"].get("waiting", {}) for container in pod["status"].get("containerStatuses", ())]
            conditions = [each for each in pod["status"].get("conditions", ()) if each["type"] == "PodScheduled"]
            reasons = [(each.get("reason", ""), each.get("message", "")) for each in (*states, *conditions)]
            found += [(pod["metadata"]["name"], reason, message) for reason, message in reasons if reason]
        return found

    def kill(self, pod: str) -> None:
        """SIGKILL to a server's process; the pod must have been deployed with SHARED_PROCESSES."""
        self.kubectl("exec", pod, "--container=server", "--", "python", "-c", SIGKILL)

    def min_ready(self) -> float:
        """For how many seconds a new pod must be ready before an old one is terminated."""
        return float(self.kubectl("get", f"deployment/{self.slug}-server", "--output=jsonpath={.spec.minReadySeconds}") or 0)

    def may_read_slices(self) -> bool | None:
        """Whether the client's account may list EndpointSlices; None where one may not ask."""
        account = self.kubectl("get", self._workload("client"), "--output=jsonpath={.spec.template.spec.serviceAccountName}")
        account_name = f"system:serviceaccount:{self.namespace}:{account or 'default'}"
        done = subprocess.run(
            self.command("auth", "can-i", "list", "endpointslices.discovery.k8s.io", f"--as={account_name}"),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return {"yes": True, "no": False}.get(done.stdout.strip())

    def requests(self) -> int | None:
        """Requests that the API server has taken from service accounts outside kube-system since it started; None where one may
        not see its metrics."""
        with contextlib.suppress(ExperimentError):
            return requests_in(self.kubectl("get", "--raw", "/metrics"))
        return None

    def answers(self) -> bool:
        """Whether the API server does, at once."""
        with contextlib.suppress(ExperimentError):
            return self.kubectl("get", "--raw", "/readyz", "--request-timeout=2s", timeout=5) == "ok"
        return False

    def wait_until(self, answers: bool) -> None:
        """The API server does, or does not. Raises ExperimentError where it takes too long."""
        end = time.monotonic() + PATIENCE
        while self.answers() is not answers:
            if time.monotonic() > end:
                raise ExperimentError(
                    f"the API server {'does not answer' if answers else 'still answers'} after {PATIENCE:.0f} s"
                )
            time.sleep(0.2)

    def _workload(self, component: str) -> str:
        return f"deployment/{self.slug}-{WORKLOADS[component]}"

    def _make(self, target: str, **variables: str) -> None:
        command = self.project.make_command(target, NAMESPACE=self.namespace, **variables)
        _run(command, 600, self.project.make_environment())


def disturb(command: str) -> None:
    """A command of the site's. Raises ExperimentError."""
    _run(["sh", "-c", command], PATIENCE)


def requests_in(metrics: str) -> int:
    """The number in the API server's metrics."""
    found = re.findall(
        r'^apiserver_flowcontrol_dispatched_requests_total\{[^}]*flow_schema="service-accounts"[^}]*\} (\S+)$',
        metrics,
        re.MULTILINE,
    )
    return round(sum(map(float, found)))


def _run(command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        raise ExperimentError(f"`{' '.join(command)}` did not end within {timeout:.0f} s") from None
    except OSError as error:
        raise ExperimentError(f"`{command[0]}` cannot be run: {error}") from None
    if done.returncode:
        reasons = last_lines(done.stderr or done.stdout) or f"status {done.returncode}"
        raise ExperimentError(f"`{' '.join(command)}` failed: {reasons}")
    return done.stdout
