"""The page, in Markdown."""

from collections.abc import Sequence

from lab.experiment.wording import table

from .flux import CONTROLLER, VERSIONS
from .repository import RATE
from .steps import AFTER, SERVERS, Step


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
