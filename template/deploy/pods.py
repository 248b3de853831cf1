"""What is wrong with pods, in sentences, and which of them serve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .kubectl import Kubectl
from .site import RefusedError

_PULL = (
    "the image {image} cannot be pulled ({message}); push it (make push), set IMAGE to one that the cluster can pull, or LOAD_IMAGE to the "
    "command that loads an image into a cluster on this machine"
)
WAITING = {
    "ImagePullBackOff": _PULL,
    "ErrImageNeverPull": _PULL,
    "InvalidImageName": "IMAGE={image} is no image's name ({message})",
    "CreateContainerConfigError": "the pod refers to what is not there: {message}",
    "CreateContainerError": "the container cannot be made: {message}",
    "RunContainerError": "the container cannot be run: {message}",
}
"""What a container waits for, and will wait for until somebody acts."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pod from becoming ready. fatal: until somebody acts; the others may end by themselves."""

    text: str
    fatal: bool


def troubles(kubectl: Kubectl, selector: str) -> list[Trouble]:
    """Of all pods that are to stay."""
    pods = kubectl.get("pods", selector).get("items", [])
    return [found for pod in pods if "deletionTimestamp" not in pod["metadata"] for found in _troubles(kubectl, pod)]


def _troubles(kubectl: Kubectl, pod: dict[str, Any]) -> Iterator[Trouble]:
    name = pod["metadata"]["name"]
    for condition in pod["status"].get("conditions", []):
        if condition.get("reason") == "Unschedulable":
            yield Trouble(f"pod {name} finds no node: {condition['message']}", fatal=False)
    for container in pod["status"].get("containerStatuses", []):
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), " ".join(waiting.get("message", "no message").split())
        if reason in WAITING:
            yield Trouble(f"pod {name}: " + WAITING[reason].format(image=container["image"], message=message), fatal=True)
        elif reason == "CrashLoopBackOff":
            ended = container.get("lastState", {}).get("terminated", {})
            text = f"pod {name} ends again and again, with status {ended.get('exitCode', '?')}: {_last_words(kubectl, name)}"
            yield Trouble(text, fatal=True)


def _last_words(kubectl: Kubectl, pod: str) -> str:
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
