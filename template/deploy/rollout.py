"""Applies what is rendered, in an order that loses no call, and deletes what only the mode before it had.

Everything but the two Deployments only adds: settings have new names, policies add up, one registry stands beside another. Then

- servers roll before clients, because a registry must hold them before anybody looks there;
- but clients before servers where the servers would leave a registry (etcd) that the old clients still read;
- servers roll at the slower of the old and the new mode's pace, because old clients may be slow to see new servers;
- at last, everything of the project that is no longer wanted is deleted.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from .kubectl import Kubectl, RefusedError, problems
from .site import CLIENT, MODE, NAME, PART_OF, SERVER, Site, render

KINDS = (
    "deployments,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings,"
    "poddisruptionbudgets,networkpolicies,horizontalpodautoscalers"
)
"""All kinds that an overlay or a component may have; deleting one deletes what it owns."""

REGISTERING = ("etcd", "etcd-external")
"""Modes in which servers register themselves."""

SILENCE = 30.0
"""Seconds for which an API server may be unreachable during a rollout."""


@dataclass
class Rollout:
    """One deployment. existing: the Deployments that are there already, by name."""

    kubectl: Kubectl
    site: Site
    image: str
    existing: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        """Read what is there."""
        found = self.kubectl.get("deployments", f"--selector={PART_OF}")
        self.existing = {item["metadata"]["name"]: item for item in found.get("items", [])}

    def render(self, *, last: bool = True) -> str:
        """What to apply; at the last with the mode's own pace."""
        counts = {name: int(item["spec"]["replicas"]) for name, item in self.existing.items() if name in (SERVER, CLIENT)}
        pace = 0 if last else int(self.existing.get(SERVER, {}).get("spec", {}).get("minReadySeconds", 0))
        wanted = render(self.kubectl, self.site, self.image, counts)
        own = next((int(line.split(":")[1]) for line in wanted.splitlines() if line.startswith("  minReadySeconds:")), 0)
        return wanted if pace <= own else render(self.kubectl, self.site, self.image, counts, pace)

    def check(self) -> None:
        """Raises RefusedError for what the API server would refuse: a mistake in a manifest, a right that is missing."""
        self._apply(self.render(), "--dry-run=server")

    def run(self) -> None:
        """Apply, wait, delete what is unwanted. Raises RefusedError where pods do not become ready; the old ones then go on."""
        first, then = self._order()
        manifests = self.render(last=False)
        known = self._apply(manifests, "--dry-run=server")
        self._apply(manifests, f"--selector={NAME} notin ({SERVER},{CLIENT})")
        self.wait("statefulset")
        for name in (each for each in (first, then) if f"deployment.apps/{each}" in known):
            self._apply(manifests, f"--selector={NAME}={name}")
            self.wait("deployment", name)
        wanted = self._apply(self.render())
        for name in self.unwanted(wanted):
            print(f"no longer needed: {name}", flush=True)
            self.kubectl.call("delete", name, "--ignore-not-found", "--wait=false")

    def _order(self) -> tuple[str, str]:
        before = self.existing.get(SERVER, {}).get("metadata", {}).get("annotations", {}).get(MODE, "")
        leaves = before in REGISTERING and self.site.discovery not in REGISTERING
        return (CLIENT, SERVER) if leaves else (SERVER, CLIENT)

    def _apply(self, manifests: str, *arguments: str) -> list[str]:
        """Names of what was applied."""
        who = ("--server-side", "--force-conflicts", "--field-manager=make-deploy", "--output=name")
        return self.kubectl.call("apply", "--filename=-", *who, *arguments, given=manifests).split()

    def unwanted(self, wanted: list[str]) -> list[str]:
        """What has the project's label and is not wanted."""
        return [name for name in labelled(self.kubectl) if name not in wanted]

    def wait(self, kind: str, name: str = "") -> None:
        """Until all pods are new and ready."""
        wait(self.kubectl, kind, name, self.site.timeout)


def labelled(kubectl: Kubectl, kinds: str = KINDS) -> list[str]:
    """All objects of the project, as kind.group/name. A kind that may not be listed has none."""
    try:
        return kubectl.call("get", kinds, f"--selector={PART_OF}", "--output=name").split()
    except RefusedError:
        if "," not in kinds:
            return []
        return [name for kind in kinds.split(",") for name in labelled(kubectl, kind)]


def wait(kubectl: Kubectl, kind: str, name: str, seconds: float) -> None:
    """Until every Deployment or StatefulSet (of this name) has only new pods, all ready. Raises RefusedError as soon as one cannot."""
    selector = f"--selector={PART_OF}" + (f",{NAME}={name}" if name else "")
    until, told, answered = time.monotonic() + seconds, "", time.monotonic()
    while True:
        try:
            items = kubectl.get(kind, selector).get("items", [])
            # Before its controller has seen a change, the newest pods of a Deployment are still those of before.
            found = problems(kubectl, kind, items, selector) if all(_observed(item) for item in items) else []
            answered = time.monotonic()
        except RefusedError:
            # An API server that restarts does not end a rollout.
            if time.monotonic() > answered + SILENCE:
                raise
            time.sleep(1)
            continue
        waiting = [text for item in items if (text := _lacking(item))]
        if not waiting:
            return
        for problem in found:
            if problem.fatal:
                raise RefusedError(problem.text)
        if (text := "; ".join([*waiting, *(problem.text for problem in found)])) != told:
            print(told := text, flush=True)
        if time.monotonic() > until:
            raise RefusedError(f"{text}; not more within TIMEOUT={seconds:g} seconds")
        time.sleep(0.5)


def _observed(item: dict[str, Any]) -> bool:
    return int(item.get("status", {}).get("observedGeneration", 0)) >= int(item["metadata"]["generation"])


def _lacking(item: dict[str, Any]) -> str:
    """What a Deployment or StatefulSet still waits for; nothing if it is done."""
    wanted, status, name = int(item["spec"].get("replicas", 1)), item.get("status", {}), item["metadata"]["name"]
    if not _observed(item):
        return f"{name}: waiting for the controller"
    total, new, ready = (int(status.get(key, 0)) for key in ("replicas", "updatedReplicas", "readyReplicas"))
    if item["kind"] == "StatefulSet" and status.get("currentRevision") == status.get("updateRevision"):
        new = total  # it counts only what an update has replaced
    for condition in status.get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            raise RefusedError(f"{name} cannot make its pods: {condition['message']}")
    if total == new == ready == wanted:
        return ""
    return f"{name}: {new} of {wanted} new, {ready} ready" + (f", {total - new} old" if total > new else "")


def undeploy(kubectl: Kubectl, seconds: float) -> None:
    """Delete all of it, and wait until it, its pods included, is gone."""
    found = labelled(kubectl)
    # Callers first, or they would complain.
    for name in sorted(found, key=lambda name: not name.endswith(f"/{CLIENT}")):
        print(f"delete {name}", flush=True)
    if found:
        kubectl.call("delete", *found, "--ignore-not-found", "--wait=false")
    until = time.monotonic() + seconds
    while left := labelled(kubectl, KINDS + ",pods,replicasets,endpointslices"):
        if time.monotonic() > until:
            raise RefusedError(f"still there after TIMEOUT={seconds:g} seconds: {', '.join(left)}")
        time.sleep(0.5)
