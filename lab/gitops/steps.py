"""One change after the other: what an owner commits, what a person does by hand, what an autoscaler does."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.experiment.cluster import PATIENCE, Cluster, ExperimentError
from lab.experiment.watching import Observer

from .flux import Sync
from .repository import Repository

SERVERS, SCALED = 3, 5
AFTER = 5.0
"""Seconds that are counted after the last old pod has ended."""
OVERLAYS = "./deploy/overlays"


@dataclass(frozen=True)
class Step:
    """One change. seconds: until Flux reports that all is ready.   broken: what was not as promised.   reasons: what clients have said of
    failed calls.
    """

    change: str
    seconds: float
    calls: int
    failed: Counter[str]
    broken: str
    reasons: Sequence[str] = ()

    @property
    def errors(self) -> str:
        """The failed calls, by status code."""
        return ", ".join(f"{count} {code}" for code, count in self.failed.items()) or "0"


class Run:
    """All steps, in one namespace."""

    def __init__(self, cluster: Cluster, repository: Repository, sync: Sync, observer: Observer, replicas: Path) -> None:
        self._cluster, self._repository, self._sync, self._observer, self._replicas = (
            cluster,
            repository,
            sync,
            observer,
            replicas,
        )
        self._server = f"deployment/{cluster.slug}-server"

    def steps(self) -> Iterator[Step]:
        """One after the other; each begins when the one before is complete. Raises ExperimentError."""
        repository, sync, slug = self._repository, self._sync, self._cluster.slug
        yield self._step(
            "the first sync, `kubernetes`; the image by the Kustomization's `images`", self._commit, check=self._even
        )
        before = self._neighbors()
        repository.name_image(self._cluster.image())
        repository.setting("server", "SERVER__DRAIN__WAIT", "5s")
        yield self._step("the image in `components/image`, and a changed setting", lambda: self._commit(images=[]))
        yield self._step("`kubectl rollout undo` by hand, and the next sync", self._undo)
        yield self._step(
            "`kubernetes` to `etcd`", lambda: sync.reconcile(path=f"{OVERLAYS}/etcd"), lambda: self._pruned("kubernetes", "etcd")
        )
        overlay = "overlays/kubernetes/kustomization.yaml"
        repository.edit(overlay, "\ncomponents:\n", "\ncomponents:\n  - ../../components/etcd\n")
        yield self._step(
            "`etcd` to `kubernetes`, in which `components/etcd` stays", lambda: self._commit(path=f"{OVERLAYS}/kubernetes")
        )
        repository.edit(overlay, "  - ../../components/etcd\n", "")
        yield self._step("a second commit without `components/etcd`", self._commit, lambda: self._pruned("etcd", "kubernetes"))
        yield self._step("`kubectl rollout undo` by hand, which restores etcd's settings, and the next sync", self._undo)
        self._turn_autoscaler_on()
        yield self._step(
            "`components/autoscale`, the number given another owner before",
            lambda: self._commit(path=f"{OVERLAYS}/scaled"),
            lambda: self._scaled(SERVERS),
        )
        repository.edit("components/autoscale/autoscaler.yaml", "minReplicas: 3", f"minReplicas: {SCALED}")
        yield self._step("the autoscaler scales to 5", self._commit, lambda: self._scaled(SERVERS, SCALED), servers=SCALED)
        repository.setting("server", "SERVER__DRAIN__WAIT", "6s")
        yield self._step("a changed setting with an autoscaler", self._commit, lambda: self._scaled(SCALED), servers=SCALED)
        if self._neighbors() != before:
            raise ExperimentError(f"neighbors with the label of {slug} have been changed")

    def _step(
        self, change: str, make: Callable[[], object], check: Callable[[], str] = lambda: "", servers: int = SERVERS
    ) -> Step:
        observer, began = self._observer, time.time()
        already, said = len(observer.seconds), len(observer.warnings)
        self._replicas_seen = len(self._replicas.read_text())
        make()
        seconds = time.time() - began
        complete = observer.wait_for(
            lambda: len(observer.ready()) == servers and len(observer.ready("client")) == 1 and not observer.ending(), PATIENCE
        )
        time.sleep(AFTER)
        lines = observer.seconds[already:]
        failed = sum((Counter(line.errors) for line in lines), Counter({"skipped": sum(line.skipped for line in lines)}))
        calls = sum(sum(line.served.values()) for line in lines) + failed.total()
        broken = check() if complete else f"not complete after {PATIENCE:.0f} s: {observer.pods}"
        return Step(change, seconds, calls, +failed, broken, [text for _, text in observer.warnings[said:]])

    def _commit(self, **spec: Any) -> None:
        self._sync.commit()
        self._sync.reconcile(**spec)

    def _even(self) -> str:
        """Calls over three seconds."""
        self._observer.wait_for(lambda: len(self._observer.seconds) >= 3, PATIENCE)
        served = sum((Counter(line.served) for line in self._observer.seconds[-3:]), Counter[str]())
        share = served.total() / SERVERS
        even = len(served) == SERVERS and all(0.75 * share <= count <= 1.25 * share for count in served.values())
        return "" if even else f"calls are not even: {dict(served)}"

    def _undo(self) -> None:
        """What Flux restores is what was there, bit for bit. Raises ExperimentError."""
        template = "--output=jsonpath={.spec.template}"
        before = self._cluster.kubectl("get", self._server, template)
        self._cluster.kubectl("rollout", "undo", self._server)
        if self._cluster.kubectl("get", self._server, template) == before:
            raise ExperimentError("`kubectl rollout undo` has changed nothing")
        self._sync.reconcile()
        if (after := self._cluster.kubectl("get", self._server, template)) != before:
            raise ExperimentError(f"Flux has not restored {before} but {after}")

    def _pruned(self, old: str, new: str) -> str:
        left = self._cluster.names(old) - self._cluster.names(new)
        found = self._cluster.kubectl("get", "--ignore-not-found", "--output=name", *sorted(left)).split()
        return f"not pruned: {', '.join(found)}" if found or not left else ""

    def _turn_autoscaler_on(self) -> None:
        """As docs/operating.md says; in an overlay of the lab's own."""
        folder = self._repository.folder / "deploy" / "overlays" / "scaled"
        folder.mkdir()
        scaled = {"resources": ["../kubernetes"], "components": ["../../components/autoscale"]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(scaled), encoding="utf-8")
        name = {"name": f"{self._cluster.slug}-server"}
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": name, "spec": {"replicas": SERVERS}}
        self._apply(owner, "--server-side", "--field-manager=autoscaler")

    def _apply(self, made: dict[str, Any], *arguments: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(made, file)
            file.flush()
            self._cluster.kubectl("apply", *arguments, "--filename", file.name)

    def _scaled(self, *numbers: int) -> str:
        """The numbers of replicas that the Deployment has had since the step's beginning."""
        now = int(self._cluster.kubectl("get", self._server, "--output=jsonpath={.spec.replicas}"))
        seen = {int(number) for number in self._replicas.read_text()[self._replicas_seen :].split()} | {now}
        return "" if seen <= set(numbers) and now == numbers[-1] else f"replicas were {sorted(seen)}, at last {now}"

    def _neighbors(self) -> str:
        """All that there is of them, less what controllers write."""
        found = json.loads(
            self._cluster.kubectl("get", "configmaps,services,statefulsets", "--selector=neighbor", "--output=json")
        )
        return json.dumps([{key: value for key, value in item.items() if key != "status"} for item in found["items"]])

    def create_neighbors(self) -> None:
        """Objects with the labels of the project's own."""
        labels = {f"app.kubernetes.io/{name}": self._cluster.slug for name in ("part-of", "instance")}
        metadata = {"name": "neighbor", "labels": {**labels, "app.kubernetes.io/managed-by": "kustomize", "neighbor": ""}}
        pods = {"metadata": {"labels": {"app": "neighbor"}}, "spec": {"containers": [{"name": "none", "image": "none"}]}}
        workload = {"replicas": 0, "serviceName": "neighbor", "selector": {"matchLabels": {"app": "neighbor"}}, "template": pods}
        for made in (
            {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}},
            {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None", "selector": {"app": "neighbor"}}},
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": workload},
        ):
            self._apply({**made, "metadata": metadata})


@contextlib.contextmanager
def followed(cluster: Cluster, path: Path) -> Iterator[None]:
    """The servers' number of replicas, whenever the Deployment changes, in a file."""
    with path.open("w") as file:
        jsonpath = '--output=jsonpath={.items[*].spec.replicas}{.spec.replicas}{"\\n"}'
        selector = f"--selector=app.kubernetes.io/name={cluster.slug}-server"
        process = subprocess.Popen(cluster.command("get", "deployments", "--watch", selector, jsonpath), stdout=file)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def left(cluster: Cluster) -> list[str]:
    """What is still there of the project."""
    kinds = "all,roles,rolebindings,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers"
    return cluster.kubectl("get", kinds, f"--selector={cluster.slug}/overlay", "--output=name").split()
