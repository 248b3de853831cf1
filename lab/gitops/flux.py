"""Flux's kustomize-controller, built from its Go module and run on this machine, and the source that it reads: an archive by HTTP."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lab.experiment.cluster import PATIENCE, Cluster, ExperimentError
from lab.project import last_lines

CONTROLLER = "github.com/fluxcd/kustomize-controller"
VERSIONS = {CONTROLLER: "v1.9.6", "github.com/fluxcd/source-controller": "v1.9.0"}
DEFINITIONS = ("kustomizations", "gitrepositories", "ocirepositories", "buckets")
"""What the controller reads or watches; it does not start without them."""
REQUESTED = "reconcile.fluxcd.io/requestedAt"
"""The annotation that `flux reconcile` sets."""


class Flux:
    """The controller, its command and its resource definitions, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._binary = folder / f"kustomize-controller-{VERSIONS[CONTROLLER]}"
        self._environment = {**os.environ, "GOFLAGS": "-p=2 -mod=mod -buildvcs=false"}

    def build(self) -> None:
        """Unless it is there: minutes, and much of the processors. Raises ExperimentError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._binary.exists():
            return
        module = self._module(CONTROLLER)
        for name in ("go.mod", "go.sum"):
            (self._folder / name).write_bytes((module / name).read_bytes())
        # `go install` refuses a module that replaces others; as a dependency of one with the same replacements it can be built.
        version = f"{CONTROLLER}@{VERSIONS[CONTROLLER]}"
        self._go("mod", "edit", "-module=lab", f"-dropreplace={CONTROLLER}/api", f"-require={version}")
        self._go("build", "-o", str(self._binary), CONTROLLER)

    def definitions(self) -> list[Path]:
        """The files of the resource definitions."""
        files = [path for module in VERSIONS for path in (self._module(module) / "config" / "crd" / "bases").glob("*.yaml")]
        return [path for path in files if path.stem.partition("_")[2] in DEFINITIONS]

    @contextlib.contextmanager
    def running(self, cluster: Cluster) -> Iterator[None]:
        """The controller, for this while, for the cluster's namespace alone; with the resource definitions that are not there yet."""
        there = cluster.kubectl("get", "customresourcedefinitions", "--output=name")
        new = [path for path in self.definitions() if f"/{yaml.safe_load(path.read_text())['metadata']['name']}\n" not in there]
        try:
            for path in new:
                cluster.kubectl("create", "--filename", str(path))
            for path in new:
                cluster.kubectl("wait", "--for=condition=Established", "--filename", str(path))
            with tempfile.TemporaryDirectory() as scratch, (self._folder / f"{cluster.namespace}.log").open("w") as log:
                process = subprocess.Popen(
                    [self._binary, "--watch-all-namespaces=false", "--metrics-addr=0", "--health-addr=0"],
                    env={**os.environ, "RUNTIME_NAMESPACE": cluster.namespace, "TMPDIR": scratch},
                    stdout=log,
                    stderr=log,
                )
                try:
                    yield
                finally:
                    process.terminate()
                    process.wait()
        finally:
            for path in new:
                cluster.kubectl("delete", "--ignore-not-found", "--filename", str(path))

    def _module(self, name: str) -> Path:
        return Path(json.loads(self._go("mod", "download", "-json", f"{name}@{VERSIONS[name]}"))["Dir"])

    def _go(self, *arguments: str) -> str:
        command = ["nice", "go", *arguments]
        if shutil.which("go") is None:
            raise ExperimentError("go is not on PATH; install Go, which builds Flux's controller")
        done = subprocess.run(command, cwd=self._folder, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise ExperimentError(f"`{' '.join(command)}` failed: {last_lines(done.stderr or done.stdout)}")
        return done.stdout


class Served(http.server.SimpleHTTPRequestHandler):
    """Without a log."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Sync:
    """A GitRepository and a Kustomization of Flux's, and the commits that the former has."""

    def __init__(self, cluster: Cluster, folder: Path, tree: Path) -> None:
        self._cluster, self._folder, self._tree = cluster, folder, tree
        self._requests = 0
        self._revision = ""

    @contextlib.contextmanager
    def created(self, **spec: Any) -> Iterator[None]:
        """Both objects, for this while. When they are deleted, Flux deletes what it has applied."""
        metadata = {"name": self._cluster.slug, "namespace": self._cluster.namespace}
        repository = {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": metadata,
            "spec": {"interval": "1h", "url": "https://git.example.com/team/project.git"},
        }
        kustomization = {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "metadata": metadata,
            "spec": {
                "sourceRef": {"kind": "GitRepository", "name": self._cluster.slug},
                "targetNamespace": self._cluster.namespace,
                "interval": "10m",
                "timeout": "5m",
                "prune": True,
                "wait": True,
                **spec,
            },
        }
        self._folder.mkdir(exist_ok=True)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(self._folder)))
        self._address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for made in (repository, kustomization):
                path = self._folder / f"{made['kind']}.json"
                path.write_text(json.dumps(made))
                self._cluster.kubectl("create", "--filename", str(path))
            yield
        finally:
            try:
                self._cluster.kubectl(
                    "delete", "kustomizations.kustomize.toolkit.fluxcd.io", self._cluster.slug, "--timeout=120s"
                )
            except ExperimentError:  # the controller has died: nobody else would take the finalizer away
                self._patch("kustomizations.kustomize.toolkit.fluxcd.io", {"metadata": {"finalizers": None}})
                raise
            finally:
                server.shutdown()
                server.server_close()

    def commit(self) -> None:
        """Give Flux the tree as it is now."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(self._tree, arcname=".")
        data = packed.getvalue()
        name = f"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"
        (self._folder / f"{name}.tar.gz").write_bytes(data)
        self._revision = f"main@sha1:{name}"
        artifact = {
            "path": f"{name}.tar.gz",
            "url": f"{self._address}/{name}.tar.gz",
            "revision": self._revision,
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "size": len(data),
            "lastUpdateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._patch("gitrepositories.source.toolkit.fluxcd.io", {"status": {"artifact": artifact}}, "--subresource=status")

    def reconcile(self, **spec: Any) -> None:
        """Change the Kustomization, or nothing, have it reconciled, and wait until it is ready. Raises ExperimentError with its reason."""
        self._requests += 1
        asked = str(self._requests)
        kind = "kustomizations.kustomize.toolkit.fluxcd.io"
        self._patch(kind, {"metadata": {"annotations": {REQUESTED: asked}}, "spec": spec})
        handled = f"--for=jsonpath={{.status.lastHandledReconcileAt}}={asked}"
        timeout = f"--timeout={PATIENCE:.0f}s"
        self._cluster.kubectl("wait", f"{kind}/{self._cluster.slug}", handled, timeout, timeout=2 * PATIENCE)
        found = json.loads(self._cluster.kubectl("get", kind, self._cluster.slug, "--output=json"))
        ready = next(each for each in found["status"]["conditions"] if each["type"] == "Ready")
        if ready["status"] != "True" or found["status"].get("lastAppliedRevision") != self._revision:
            raise ExperimentError(f"Flux: {ready['reason']}: {ready['message']}")

    def _patch(self, kind: str, change: Mapping[str, Any], *arguments: str) -> None:
        self._cluster.kubectl("patch", kind, self._cluster.slug, "--type=merge", f"--patch={json.dumps(change)}", *arguments)
