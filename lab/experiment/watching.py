"""A running pair, observed from outside: a watch on its pods and EndpointSlices, and its clients' logs."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from .cluster import Cluster, ExperimentError
from .record import Change, First, Role, Second, What

AGAIN = 0.2
"""Seconds until what ended is begun anew: the API server is stopped in the course of the scenario."""


@dataclass
class Pod:
    """What is known of a pod now."""

    role: Role
    ready: bool = False
    terminating: bool = False
    listed: bool = False


@dataclass
class Observer:
    """Follows the pair from `start` to `close`. Times are `time.time()` seconds of this machine's clock, but those of log lines are
    of the node's that wrote them.

    heard: by client, the servers that have answered it.   behind: the shortest time from a log line's to its arrival; the clocks
    differ by less than that, or it is negative.   warnings: what clients have said of calls that failed, and when.
    stopped: the clients whose last lines were read.   events, bytes: what a watch on the servers' EndpointSlices has received.
    listed: when the pods were last listed, which is when a watch begins.
    """

    cluster: Cluster
    changes: list[Change] = field(default_factory=list)
    seconds: list[Second] = field(default_factory=list)
    firsts: list[First] = field(default_factory=list)
    pods: dict[str, Pod] = field(default_factory=dict)
    heard: dict[str, set[str]] = field(default_factory=dict)
    behind: float = float("inf")
    warnings: list[tuple[float, str]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    connected: dict[str, float] = field(default_factory=dict)
    events: int = 0
    bytes: int = 0
    listed: float = 0.0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to follow; comes back when the pods that there are are known. Raises ExperimentError."""
        base, labels = f"namespaces/{self.cluster.namespace}", f"kubernetes.io/service-name={self.cluster.slug}-server"
        self._thread(self._watch, f"/api/v1/{base}/pods", self.cluster.selector, self._see_pod, self._see_pods)
        self._thread(self._watch, f"/apis/discovery.k8s.io/v1/{base}/endpointslices", labels, self._see_slice, self._see_slices)
        if not self.wait_for(lambda: self.listed > 0, 30):
            raise ExperimentError("the pods cannot be watched: may this account list and watch pods here?")

    def close(self) -> None:
        """End all."""
        self._closed.set()
        with self._changed:
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until it holds; returns whether it does. It may look at everything here."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def ready(self, role: Role = "server") -> list[str]:
        """Those that are ready and not terminating; the oldest first."""
        return [name for name, pod in self.pods.items() if pod.role == role and pod.ready and not pod.terminating]

    def ending(self) -> list[str]:
        """Those that are terminating."""
        return [name for name, pod in self.pods.items() if pod.terminating]

    def _thread(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _lines(self, *arguments: str) -> Iterator[str]:
        """What a kubectl prints, line by line, until it ends."""
        with self._changed:
            if self._closed.is_set():
                return
            process = subprocess.Popen(
                self.cluster.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            yield from process.stdout
        finally:
            with self._changed:
                self._running.discard(process)
            process.kill()
            process.communicate()

    def _watch(self, path: str, labels: str, see: Callable[[str, Any, int], None], see_all: Callable[[list[Any]], None]) -> None:
        """List, then watch, again and again."""
        while not self._closed.is_set():
            listed = "".join(self._lines("get", "--raw", f"{path}?{urlencode({'labelSelector': labels})}"))
            if listed:
                found = json.loads(listed)
                with self._changed:
                    see_all(found["items"])
                    self._changed.notify_all()
                query = urlencode({"labelSelector": labels, "watch": 1, "resourceVersion": found["metadata"]["resourceVersion"]})
                for line in self._lines("get", "--raw", f"{path}?{query}"):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    with self._changed:
                        see(event["type"], event["object"], len(line))
                        self._changed.notify_all()
            self._closed.wait(AGAIN)

    def _see_slice(self, kind: str, item: Any, size: int) -> None:
        self.events += 1
        self.bytes += size
        self._see_slices([item])

    def _see_slices(self, items: list[Any]) -> None:
        """The pods that they have as ready."""
        for endpoint in (endpoint for item in items for endpoint in item.get("endpoints") or ()):
            pod = self.pods.get(endpoint.get("targetRef", {}).get("name", ""))
            if pod is not None and not pod.listed and endpoint.get("conditions", {}).get("ready") is not False:
                pod.listed = True
                self._note(endpoint["targetRef"]["name"], "listed")

    def _see_pods(self, items: list[Any]) -> None:
        """All pods that there are; one that is not in the list is gone."""
        names = {item["metadata"]["name"] for item in items}
        for name in set(self.pods) - names:
            self._gone(name)
        for item in sorted(items, key=lambda item: item["metadata"]["creationTimestamp"]):
            self._see_pod("MODIFIED", item, 0)
        self.listed = time.time()

    def _see_pod(self, kind: str, item: Any, size: int) -> None:
        name, role = item["metadata"]["name"], item["metadata"]["labels"]["app.kubernetes.io/component"]
        if role not in ("server", "client"):
            return  # etcd's, where the mode needs one
        if kind == "DELETED":
            self._gone(name)
            return
        if name not in self.pods:
            self.pods[name] = Pod(role)
            self._note(name, "created")
        pod = self.pods[name]
        conditions = {condition["type"]: condition["status"] for condition in item["status"].get("conditions", ())}
        ready, terminating = conditions.get("Ready") == "True", "deletionTimestamp" in item["metadata"]
        if terminating and not pod.terminating:
            pod.terminating = True
            self._note(name, "terminating")
        if ready != pod.ready:
            pod.ready = ready
            if not pod.terminating:
                self._note(name, "ready" if ready else "not ready")
        if role == "client" and name not in self.heard and item["status"].get("phase") == "Running":
            self.heard[name] = set()
            self._thread(self._follow, name)

    def _gone(self, name: str) -> None:
        if name in self.pods:
            self._note(name, "gone")
            del self.pods[name]

    def _note(self, name: str, what: What) -> None:
        self.changes.append(Change(time.time(), name, self.pods[name].role, what))

    def _follow(self, pod: str) -> None:
        """A client's log, from its beginning to its end."""
        last = 0.0
        while not self._closed.is_set():
            since = [f"--since-time={datetime.fromtimestamp(int(last), UTC).isoformat()}"] if last else []
            for line in self._lines("logs", "--follow", "--timestamps", *since, pod):
                stamp, _, text = line.partition(" ")
                try:
                    at = datetime.fromisoformat(stamp).timestamp()
                except ValueError:
                    continue  # the kubelet's own words, where the container is gone and its pod not yet
                if at > last:
                    last = at
                    self._read(pod, at, text)
            if pod not in self.pods:
                return
            self._closed.wait(AGAIN)

    def _read(self, client: str, at: float, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            return  # what gRPC itself prints
        with self._changed:
            self.behind = min(self.behind, time.time() - at)
            if "first" in line:
                self.firsts.append(First(at, line["first"]))
                self.heard[client].add(line["first"])
            elif line.get("message", "").startswith("ready: calls go to "):
                self.connected[client] = at
            elif client not in self.connected or at < self.connected[client] + 1.0:
                return  # a line counts the second before it
            elif "served" in line:
                self.seconds.append(Second(at, line["served"], line["errors"], line["skipped"], line.get("p99_ms")))
            elif line.get("severity") == "WARNING":
                self.warnings.append((at, f"{client}: {line['message']}"))
            elif line.get("message", "").startswith("stopping with "):
                self.stopped.add(client)
            self._changed.notify_all()
