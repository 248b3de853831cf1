"""Programs that deploying runs, kubectl above all: their errors, and what keeps pods from becoming ready, as sentences."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUEST = 20
"""Seconds that one request may take."""


class RefusedError(Exception):
    """Something that a person can correct; the text says what, and how."""


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


@dataclass(frozen=True, slots=True)
class Kubectl:
    """namespace: empty is the kubeconfig's own."""

    namespace: str = ""

    def command(self, *arguments: str) -> list[str]:
        """A whole command line."""
        where = [f"--namespace={self.namespace}"] if self.namespace else []
        return [need("kubectl", "install it: https://kubernetes.io/docs/tasks/tools"), *where, *arguments]

    def call(self, *arguments: str, given: str | None = None, seconds: float = 60) -> str:
        """What it prints. Raises RefusedError with what the API server, or kubectl, has said."""
        try:
            done = subprocess.run(
                self.command(f"--request-timeout={REQUEST}s", *arguments),
                input=given,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise RefusedError(f"kubectl {arguments[0]} has not ended within {seconds:g} s; is the cluster reachable?") from None
        if done.returncode:
            raise RefusedError(sentence(done.stderr))
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Objects as JSON; an object that is not there is an empty dictionary."""
        found: dict[str, Any] = json.loads(self.call("get", *arguments, "--ignore-not-found", "--output=json") or "{}")
        return found

    def check_cluster(self) -> None:
        """Raises RefusedError where none answers, or it does not know who asks."""
        self.call("get", "--raw=/version", seconds=45)

    def own_namespace(self) -> str:
        """The namespace's name, which a kubeconfig may leave to its default."""
        return self.namespace or self.call("config", "view", "--minify", "--output=jsonpath={..namespace}") or "default"


_NO_ANSWER = ("was refused", "no such host", "i/o timeout", "Unable to connect", "deadline exceeded", "no configuration")
_NO_CREDENTIALS = (
    "provide credentials",
    "Unauthorized",
    "error: EOF",
)  # it prompts for a user name, and there is no terminal


def sentence(said: str) -> str:
    """A sentence about what kubectl printed on failing."""
    lines = [line for line in said.strip().splitlines() if line and not re.match(r"[EWI]\d{4} ", line)] or ["no reason given"]
    last = lines[-1].removeprefix("error: ").removeprefix("Error from server ").strip()
    if any(sign in said for sign in _NO_ANSWER):
        return f"no cluster answers ({last}); set KUBECONFIG to one that does, or start one: make cluster"
    if any(sign in said for sign in _NO_CREDENTIALS):
        return f"the cluster does not know you ({last}); renew the credentials in KUBECONFIG"
    if forbidden := [line for line in lines if "orbidden" in line]:
        reason = forbidden[0].removeprefix("Error from server ")
        return f"you have no right to that: {reason}; ask for it, or choose another NAMESPACE or KUBECONFIG"
    return f"kubectl says: {last}"


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
