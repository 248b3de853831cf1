"""`python -m lab.gitops`: Flux's kustomize-controller applies a project's overlays as they lie, commit after commit, under load.

Status 0 if all was as promised, 1 if not, 2 if it could not be run, 130 if it was ended by a signal.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.arguments import finish
from lab.experiment.cluster import PATIENCE, Cluster, ExperimentError
from lab.experiment.watching import Observer
from lab.experiment.wording import table
from lab.flux import CONTROLLER, VERSIONS, Flux, Sync
from lab.project import FRESH, ProjectError, add_arguments, chosen

RATE, SERVERS, SCALED = 50, 3, 5
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


def render(steps: Sequence[Step], about: str) -> str:
    """The page, in Markdown."""
    rows = [(step.change, f"{step.seconds:.0f} s", f"{step.errors} of {step.calls}", step.broken or "yes") for step in steps]
    return f"""# Overlays in the hands of Flux

Flux's kustomize-controller {VERSIONS[CONTROLLER]}, the real program, applies `deploy/overlays/<mode>` of a generated project to a cluster, with `prune: true` and
`wait: true`: {SERVERS} servers, and a load generator that makes {RATE} calls a second without retries. The project is as generated but for the image, the load generator's
settings, and requests of little CPU. An archive on this machine stands for the Git repository. `make gitops` runs it and writes this page ({about}).

The time is that until Flux reports Ready. Calls count until {AFTER:g} s after the last old pod has ended. Objects of others with the project's labels are untouched at
the end, and when the Kustomization is deleted, nothing of the project is left.

{table(("change", "ready after", "failed calls", "as promised"), rows)}
"""


def run(arguments: argparse.Namespace) -> int:
    """The status."""
    project = chosen(arguments, "gitops")
    cluster = Cluster(project, arguments.namespace or f"gitops-{project.slug}")
    about, flux, steps = cluster.about(), Flux(FRESH / "flux"), list[Step]()
    began = time.monotonic()
    flux.build()
    print(f"the controller was built in {time.monotonic() - began:.0f} s; namespace {cluster.namespace} of {about}", flush=True)
    with tempfile.TemporaryDirectory() as scratch, cluster.present(), contextlib.ExitStack() as stack:
        folder = Path(scratch)
        repository = Repository(cluster, folder / "repository")
        stack.enter_context(flux.running(cluster))
        stack.enter_context(followed(cluster, folder / "replicas"))
        observer = Observer(cluster)
        observer.start()
        stack.callback(observer.close)
        sync = Sync(cluster, folder / "served", repository.folder)
        whole = Run(cluster, repository, sync, observer, folder / "replicas")
        whole.create_neighbors()
        with sync.created(path=f"{OVERLAYS}/kubernetes", images=repository.images(cluster.image())):
            for step in whole.steps():
                steps.append(step)
                print(f"{step.seconds:5.0f} s  {step.change}: {step.errors} of {step.calls} failed {step.broken}", flush=True)
                print(*(f"         {reason}" for reason in step.reasons), sep="\n", end="\n" * bool(step.reasons), flush=True)
        if those := left(cluster):
            raise ExperimentError(f"the Kustomization is gone, and left {', '.join(those)}")
    if arguments.page:
        arguments.page.write_text(render(steps, about.partition(": ")[2]), encoding="utf-8")
    return int(any(step.failed or step.broken for step in steps))


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m lab.gitops", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.add_argument("--namespace", default="", help="where it is deployed (default: gitops- and the project's name)")
    parser.add_argument("--page", type=Path, help="a file for the table, in Markdown")
    arguments = parser.parse_args()
    finish("gitops", lambda: run(arguments), ExperimentError, ProjectError)


if __name__ == "__main__":
    main()
