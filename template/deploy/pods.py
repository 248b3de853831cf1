"""What keeps pods from becoming ready, in sentences, and which of them are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .kubectl import Kubectl, RefusedError

_PULL = "the image {image} cannot be pulled ({message}); {remedy}"
_REMEDIES = {
    "etcd": "set ETCD_IMAGE to one that the cluster can pull, or load it into the cluster first",
}
"""For images that are not built here, by the container's name."""

_REMEDY = (
    "push it (make push), set IMAGE to one that the cluster can pull, or LOAD_IMAGE to the command that loads an image into "
    "a cluster on this machine"
)
WAITING = {
    "ImagePullBackOff": _PULL,
    "ErrImageNeverPull": _PULL,
    "InvalidImageName": "{image} is not the name of an image ({message}); {remedy}",
    "CreateContainerConfigError": "the pod refers to what is not there: {message}",
    "CreateContainerError": "the container cannot be made: {message}",
    "RunContainerError": "the container cannot be run: {message}",
}
"""What a container waits for, and will wait for until somebody acts."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a pod from becoming ready. fatal: until somebody acts; the others may end by themselves."""

    text: str
    fatal: bool


_LATE = "failed to sync"
"""The node has not read a ConfigMap or a Secret yet; it tries again."""

_REVISION = "deployment.kubernetes.io/revision"


def problems(kubectl: Kubectl, kind: str, items: list[dict[str, Any]], selector: str) -> list[Problem]:
    """Of the newest pods of Deployments or StatefulSets (`items` of `kind`): what is wrong with older ones goes away with them."""
    newest = _newest(kubectl, kind, items, selector)
    pods = [pod for pod in kubectl.get("pods", selector).get("items", []) if "deletionTimestamp" not in pod["metadata"]]
    return [found for pod in pods if newest & set(pod["metadata"]["labels"].values()) for found in _problems(kubectl, pod)]


def _newest(kubectl: Kubectl, kind: str, items: list[dict[str, Any]], selector: str) -> set[str]:
    """The hashes that the newest pods have as a label."""
    if kind == "statefulset":
        return {item["status"]["updateRevision"] for item in items if "updateRevision" in item.get("status", {})}
    revisions = {item["metadata"]["uid"]: item["metadata"].get("annotations", {}).get(_REVISION) for item in items}
    return {
        made["metadata"]["labels"]["pod-template-hash"]
        for made in kubectl.get("replicasets", selector).get("items", [])
        for owner in made["metadata"].get("ownerReferences", [])
        if owner["uid"] in revisions and made["metadata"]["annotations"].get(_REVISION) == revisions[owner["uid"]]
    }


def _problems(kubectl: Kubectl, pod: dict[str, Any]) -> Iterator[Problem]:
    name = pod["metadata"]["name"]
    for condition in pod["status"].get("conditions", []):
        if condition.get("reason") == "Unschedulable":
            yield Problem(f"pod {name} finds no node: {condition['message']}", fatal=False)
    for container in pod["status"].get("containerStatuses", []):
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), " ".join(waiting.get("message", "no message").split())
        if reason in WAITING:
            remedy = _REMEDIES.get(container["name"], _REMEDY)
            text = f"pod {name}: " + WAITING[reason].format(image=container["image"], message=message, remedy=remedy)
            yield Problem(text, fatal=_LATE not in message)
        elif reason == "CrashLoopBackOff":
            ended = container.get("lastState", {}).get("terminated", {})
            text = f"pod {name} ends again and again, with status {ended.get('exitCode', '?')}: {_last_line(kubectl, name)}"
            yield Problem(text, fatal=True)


def _last_line(kubectl: Kubectl, pod: str) -> str:
    """The last line that it has printed."""
    try:
        lines = kubectl.call("logs", pod, "--previous", "--tail=5").strip().splitlines()
    except RefusedError:
        lines = []
    return lines[-1] if lines else "it has printed nothing"


def ready(kubectl: Kubectl, selector: str) -> list[str]:
    """Names of the pods that are ready and stay, the oldest first."""
    pods = kubectl.get("pods", selector, "--sort-by=.metadata.creationTimestamp").get("items", [])
    return [
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"].get("conditions", [])
        )
    ]
