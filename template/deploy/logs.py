"""One view of all pods' logs, each in its color; new pods are followed, too."""

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from .kubectl import Kubectl
from .site import PART_OF, SLUG

COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""Of terminals; red is for errors."""

_POD = re.compile(rf"\b{SLUG}-" + r"(server-[a-z0-9]+-[a-z0-9]{5}\b)")
"""A server's name, of which every pod of the project has the beginning."""


@dataclass
class Container:
    """One run of a container. read: the time of the last line that was shown, as the kubelet writes it."""

    pod: str
    name: str
    color: int
    read: str = ""
    open: bool = False


def follow(kubectl: Kubectl) -> None:
    """Until interrupted. Where an API server's absence has cut a log off, it continues from the same line."""
    colors = itertools.cycle(COLORS if sys.stdout.isatty() else (0,))
    of_pod: dict[str, int] = {}
    known: dict[tuple[str, int], Container] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for pod in _pods(kubectl, running):
            name = pod["metadata"]["name"]
            for status in pod["status"].get("containerStatuses", []):
                if not {"running", "terminated"} & status["state"].keys():
                    continue
                run = (pod["metadata"]["uid"], int(status["restartCount"]))
                color = of_pod[name] if name in of_pod else of_pod.setdefault(name, next(colors))
                container = known.setdefault(run, Container(name, status["name"], color))
                if not container.open:
                    container.open = True
                    # Of what runs already, the last lines; a pod that starts now is shown from its beginning.
                    since = f"--since-time={container.read}" if container.read else "--since=10s"
                    stream = _open(
                        kubectl, running, "logs", "--follow", "--timestamps", since, f"--container={container.name}", name
                    )
                    threading.Thread(target=_show, args=(container, stream), daemon=True).start()
    finally:
        for process in running:
            process.kill()


def _open(kubectl: Kubectl, running: list[subprocess.Popen[str]], *arguments: str) -> IO[str]:
    running[:] = [process for process in running if process.poll() is None]
    process = subprocess.Popen(kubectl.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    running.append(process)
    assert process.stdout is not None
    return process.stdout


def _pods(kubectl: Kubectl, running: list[subprocess.Popen[str]]) -> Iterator[dict[str, Any]]:
    """Every state of every pod of the project; a watch that ends is started again, and then shows them all again."""
    while True:
        buffer = ""
        for line in _open(kubectl, running, "get", "pods", f"--selector={PART_OF}", "--watch", "--output=json"):
            buffer += line
            if line.startswith("}"):  # objects follow each other, indented
                yield json.loads(buffer)
                buffer = ""
        time.sleep(1)


def _show(container: Container, stream: IO[str]) -> None:
    begin, end = (f"\033[{container.color}m", "\033[0m") if container.color else ("", "")
    label = f"{begin}{container.pod.removeprefix(f'{SLUG}-'):<24}{end}"
    for line in stream:
        moment, _, text = line.rstrip("\n").partition(" ")
        if moment > container.read:
            container.read = moment
            print(f"{label} {readable(text, color=bool(container.color))}", flush=True)
    container.open = False


def readable(line: str, *, color: bool = False) -> str:
    """A line of JSON as a person reads it; any other as it is."""
    try:
        said = json.loads(line)
        level, message = (said.get("severity") or said["level"]).upper(), said.get("message") or said["msg"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    message = _POD.sub(r"\1", str(message))
    if level in ("INFO", "DEBUG"):
        return message
    return f"\033[31m{level}\033[0m {message}" if color else f"{level} {message}"
