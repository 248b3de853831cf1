"""A generated project on a real cluster, deployed as a person does, and what its load generator logs of every call."""

import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bake import SLUG

DEADLINE = 150.0
"""Seconds after which a wait is given up; nothing is asserted about shorter times."""

ETCD_IMAGE = "localhost/etcd:3.6"

Object = dict[str, Any]


@dataclass(frozen=True)
class Second:
    """What one client has logged at once. served: calls by server.  failed: calls by status code, and those not even made."""

    client: str
    served: Counter[str]
    failed: Counter[str]


def ask_kubectl(*arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
    """kubectl, whatever comes of it. given: an object, or a list of some."""
    items = {"apiVersion": "v1", "kind": "List", "items": given} if isinstance(given, list) else given
    return subprocess.run(
        ["kubectl", *arguments], input=json.dumps(items) if given else None, capture_output=True, text=True, timeout=DEADLINE
    )


def kubectl(*arguments: str, given: object = None) -> str:
    """Raises AssertionError with what it said."""
    done = ask_kubectl(*arguments, given=given)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def variables(**settings: str) -> dict[str, str]:
    """Settings by the names that they have in the environment."""
    return {f"{SLUG.upper()}__{name}": value for name, value in settings.items()}


def clean_environment(**variables: str) -> dict[str, str]:
    """Without what an outer make exports."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))} | variables


class Logs:
    """The logs of all load generators, those that start or end meanwhile included, from now on.

    A client counts from when it is ready, as in lab.transitions: one that calls before may know no server yet. early: its calls that
    failed before.
    """

    def __init__(self, deployed: "Deployed") -> None:
        self._kubectl = ["kubectl", "--namespace", deployed.namespace]
        self._said = threading.Condition()
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self.seconds: list[Second] = []
        self.early = Counter[str]()
        self.lines: list[str] = []
        self._running = {pod["metadata"]["name"] for pod in deployed.pods("load-generator")}
        shown = '-o=jsonpath={.metadata.name} {.status.phase}{"\\n"}'
        self._start(self._watch, "get", "pods", f"--selector={deployed.selector('load-generator')}", "--watch", shown)

    def _start(self, read: Callable[["subprocess.Popen[str]"], None], *arguments: str) -> None:
        process = subprocess.Popen([*self._kubectl, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        thread = threading.Thread(target=read, args=(process,), daemon=True)
        self._processes.append(process)
        self._threads.append(thread)
        thread.start()

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        followed = set[str]()
        assert process.stdout is not None
        for line in process.stdout:
            pod, phase = line.split()
            if phase == "Running" and pod not in followed:
                followed.add(pod)
                tail = "--tail=0" if pod in self._running else "--tail=-1"
                self._start(lambda logs, pod=pod: self._read(pod, logs), "logs", "--follow", tail, pod)  # type: ignore[misc]

    def _read(self, pod: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        ready, began = pod in self._running, pod in self._running
        for line in process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                said = json.loads(line) if line.startswith("{") else {}
                began = began or said.get("message", "").startswith("ready: calls go to ")
                if "served" in said:
                    failed = Counter(said["errors"]) + Counter({"skipped": said["skipped"]})
                    if ready:
                        self.seconds.append(Second(pod, Counter(said["served"]), failed))
                    else:
                        self.early += failed
                    ready = began  # a line counts the second before it
                self._said.notify_all()

    def wait(self, what: str, holds: Callable[[list[Second]], bool]) -> None:
        """Until the seconds read so far fulfil it."""
        with self._said:
            done = self._said.wait_for(lambda: holds(self.seconds), DEADLINE)
            assert done, f"{what} has not come; the last lines:\n" + "\n".join(self.lines[-30:])

    def wait_even(self, servers: int) -> None:
        """Until, over three seconds of one client, so many servers have been called, each as often as the others within 25 %."""

        def even(seconds: list[Second]) -> bool:
            last = [second for second in seconds if second.client == seconds[-1].client][-3:] if seconds else []
            shares = sum((second.served for second in last), Counter[str]()).values()
            return (
                len(last) == 3
                and len(shares) == servers
                and max(shares) <= 1.25 * sum(shares) / servers
                and min(shares) >= 0.75 * sum(shares) / servers
            )

        self.wait(f"an even split over {servers} servers", even)

    def wait_for(self, client: str) -> None:
        """Until this pod has called."""
        self.wait(f"the new client {client}", lambda seconds: any(second.client == client for second in seconds))

    def failed(self) -> Counter[str]:
        """All calls of ready clients that failed."""
        return sum((second.failed for second in self.seconds), Counter[str]())

    def calls(self) -> int:
        return sum(second.served.total() for second in self.seconds)

    def close(self) -> None:
        for thread in self._threads:  # the first one starts the others, so the list is complete once it has ended
            self._processes[self._threads.index(thread)].terminate()
            thread.join()
        for process in self._processes:
            process.wait()


class Deployed:
    """One project in one namespace. image: the one to deploy, or none, where make builds it."""

    def __init__(self, project: Path, namespace: str, image: str) -> None:
        self.project, self.namespace, self.image = project, namespace, image

    def _environment(self, **variables: str) -> dict[str, str]:
        own = {"NAMESPACE": self.namespace, "IMAGE": self.image, "ETCD_IMAGE": ETCD_IMAGE, "TIMEOUT": f"{DEADLINE:.0f}"}
        return clean_environment(**own | variables)

    @contextmanager
    def started(self, target: str) -> Iterator[Iterator[str]]:
        """A make target that ends with the block; the lines that it prints."""
        process = subprocess.Popen(
            ["make", "-s", target], cwd=self.project, env=self._environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()

    def ask(
        self, target: str, *arguments: str, seconds: float = 2 * DEADLINE, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A make target, whatever comes of it, under the strictest umask."""
        return subprocess.run(
            ["make", "-s", target, *arguments],
            cwd=self.project,
            env=self._environment(**variables),
            capture_output=True,
            text=True,
            timeout=seconds,
            umask=0o077,
        )

    def make(self, target: str, *arguments: str, **variables: str) -> str:
        """A make target that must succeed; what it printed."""
        done = self.ask(target, *arguments, seconds=2 * DEADLINE, **variables)
        assert done.returncode == 0, f"make {target}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str, given: object = None) -> str:
        return kubectl("--namespace", self.namespace, *arguments, given=given)

    def apply(self, overlay: str, *arguments: str) -> str:
        """By plain kubectl, as the files lie."""
        return self.kubectl("apply", *arguments, "-k", str(self.project / "deploy" / "overlays" / overlay))

    def rolled_out(self) -> None:
        """Wait for all pods of the newest revisions."""
        self.kubectl("rollout", "status", "deployments", f"--selector={self.project.name}/overlay", f"--timeout={DEADLINE:.0f}s")

    def selector(self, role: str) -> str:
        return f"app.kubernetes.io/name={self.project.name}-{role},app.kubernetes.io/part-of={self.project.name}"

    def pods(self, role: str) -> list[Object]:
        """Those that are not about to end."""
        found = json.loads(self.kubectl("get", "pods", "-o", "json", "-l", self.selector(role)))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, role: str) -> set[str]:
        return {str(pod["metadata"]["name"]) for pod in self.pods(role)}

    def deployment(self, role: str) -> Object:
        found: Object = json.loads(self.kubectl("get", "deployment", f"{self.project.name}-{role}", "-o", "json"))
        return found

    def environment(self, role: str) -> dict[str, str]:
        """The settings of the role's pods by name; of those that only a pod knows, nothing."""
        entries = self.deployment(role)["spec"]["template"]["spec"]["containers"][0]["env"]
        return {entry["name"]: entry.get("value", "") for entry in entries}

    def gone(self, *names: str) -> None:
        """Wait until pods have ended, their drain included."""
        if names:
            self.kubectl("wait", "--for=delete", f"--timeout={DEADLINE:.0f}s", *(f"pod/{name}" for name in names))

    def edit(self, path: str, pattern: str, text: str | Callable[["re.Match[str]"], str]) -> None:
        """Replace what a pattern finds in a file below deploy/, as a person does."""
        file = self.project / "deploy" / path
        edited, count = re.subn(pattern, text, file.read_text(), flags=re.MULTILINE)
        assert count, f"{pattern} is not in {path}"
        file.write_text(edited)

    def setting(self, role: str, **values: str) -> None:
        """Edit the entries `env` of the role's deployment.yaml."""
        path = f"{role}/deployment.yaml"
        for name, value in values.items():
            if f"name: {name}," in (self.project / "deploy" / path).read_text():
                self.edit(path, rf"name: {name}, .*", f'name: {name}, value: "{value}"}}')
            else:
                self.edit(path, r"^( +)env:$", rf'\g<0>\n\1  - {{name: {name}, value: "{value}"}}')

    def quicken(self) -> None:
        """Drains that a test can wait for, a deadline that a busy machine keeps, and room for many pods on one small node."""
        self.setting("server", **variables(SERVER__DRAIN__WAIT="3s"))
        self.setting("load-generator", **variables(CLIENT__TIMEOUT="10s", CLIENT__RATE="20"))
        for role in ("server", "load-generator"):
            self.edit(f"{role}/deployment.yaml", "cpu: 100m", "cpu: 10m")

    def name_image(self, image: str) -> None:
        """In the one place, as the docs say."""
        name, _, tag = image.rpartition(":")
        self.edit("components/image/kustomization.yaml", "newName: .*", f"newName: {name}")
        self.edit("components/image/kustomization.yaml", "newTag: .*", f'newTag: "{tag}"')
        self.edit("components/image/kustomization.yaml", "version: .*", f'version: "{tag}"')

    @contextmanager
    def followed(self) -> Iterator[Logs]:
        """Its logs while the block runs, which begins when calls are shown."""
        logs = Logs(self)
        try:
            logs.wait("a first second", lambda seconds: bool(seconds))
            yield logs
        finally:
            logs.close()
