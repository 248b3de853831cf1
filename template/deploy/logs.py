"""One view of all pods' logs, each in its colour; pods that come are followed, too."""

import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from . import project
from .kubectl import Kubectl
from .manifests import PART_OF

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""Of terminals; red is for errors."""

_POD = re.compile(rf"\b{project.SLUG}-(server-[a-z0-9]+-[a-z0-9]{{5}}\b)")
"""A server's name, of which every pod of the project has the beginning."""


def follow(kubectl: Kubectl) -> None:
    """Until interrupted. A container that has started again is followed anew."""
    colours = itertools.cycle(COLOURS if sys.stdout.isatty() else (0,))
    seen: dict[str, int] = {}
    of_pod: dict[str, int] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for pod in _pods(kubectl, running):
            name, key = pod["metadata"]["name"], ""
            for container in pod["status"].get("containerStatuses", []):
                key = f"{pod['metadata']['uid']}/{container['restartCount']}"
                if key in seen or not ({"running", "terminated"} & container["state"].keys()):
                    continue
                seen[key] = of_pod.setdefault(name, next(colours))
                # What was said long before anybody looked is old news; a pod that comes now is told from its beginning.
                stream = _open(kubectl, running, "logs", "--follow", "--since=10s", f"--container={container['name']}", name)
                threading.Thread(target=_show, args=(name, of_pod[name], stream), daemon=True).start()
    finally:
        for process in running:
            process.kill()


def _open(kubectl: Kubectl, running: list[subprocess.Popen[str]], *arguments: str) -> IO[str]:
    process = subprocess.Popen(kubectl.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    running.append(process)
    assert process.stdout is not None
    return process.stdout


def _pods(kubectl: Kubectl, running: list[subprocess.Popen[str]]) -> Iterator[dict[str, Any]]:
    """Every state of every pod of the project; a watch that the API server ends is begun anew."""
    decoder = json.JSONDecoder()
    while True:
        buffer = ""
        for line in _open(kubectl, running, "get", "pods", f"--selector={PART_OF}", "--watch", "--output=json"):
            buffer += line
            if line.startswith("}"):  # objects follow each other, indented
                yield decoder.decode(buffer)
                buffer = ""


def _show(pod: str, colour: int, stream: IO[str]) -> None:
    short = pod.removeprefix(f"{project.SLUG}-")
    for line in stream:
        begin, end = (f"\033[{colour}m", "\033[0m") if colour else ("", "")
        print(f"{begin}{short:<24}{end} {readable(line.rstrip(), colour=bool(colour))}", flush=True)


def readable(line: str, *, colour: bool = False) -> str:
    """A line of JSON as a person reads it; any other as it is."""
    try:
        said = json.loads(line)
        level, message = said["level"].upper(), said.get("message") or said["msg"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    message = _POD.sub(r"\1", str(message))
    if level in ("INFO", "DEBUG"):
        return message
    return f"\033[31m{level}\033[0m {message}" if colour else f"{level} {message}"
