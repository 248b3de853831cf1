"""`python -m lab.gitops`: Flux's kustomize-controller applies a project's overlays as they lie, commit after commit, under load.

Status 0 if all was as promised, 1 if not, 2 if it could not be run, 130 if it was ended by a signal.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from lab.arguments import finish
from lab.experiment.cluster import Cluster, ExperimentError
from lab.experiment.watching import Observer
from lab.project import FRESH, ProjectError, add_arguments, chosen

from .flux import Flux, Sync
from .page import render
from .repository import Repository
from .steps import OVERLAYS, Run, Step, followed, left


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
