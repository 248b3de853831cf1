"""A generated project on a real cluster, deployed as a person does: make's targets, and what `make logs` says of every call."""

import json
import os
import re
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

_SERVED = re.compile(r"(\S+) +served by (.*)")
_COUNT = re.compile(r"(\S+)=(\d+)")


@dataclass(frozen=True)
class Second:
    """What one client has logged at once. served: calls by server.  failed: calls by status code, and those not even made."""

    client: str
    served: Counter[str]
    failed: Counter[str]


def kubectl(*arguments: str, given: object = None) -> str:
    """Raises AssertionError with what it said."""
    done = subprocess.run(
        ["kubectl", *arguments], input=json.dumps(given) if given else None, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def variables(**settings: str) -> dict[str, str]:
    """Settings by the names that they have in the environment."""
    return {f"{SLUG.upper()}__{name}": value for name, value in settings.items()}


class Logs:
    """`make logs`, read from now on."""

    def __init__(self, deployed: "Deployed") -> None:
        self._process = subprocess.Popen(
            deployed.command("logs"),
            cwd=deployed.project,
            env=deployed.environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._said = threading.Condition()
        self.seconds: list[Second] = []
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                if found := _SERVED.match(line):
                    counts = Counter({name: int(count) for name, count in _COUNT.findall(found[2])})
                    failed = Counter({name: count for name, count in counts.items() if name.isupper() or name == "skipped"})
                    self.seconds.append(Second(found[1], counts - failed, failed))
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

    def wait_seconds(self, count: int) -> None:
        """Until so many more were shown."""
        until = len(self.seconds) + count
        self.wait(f"{count} more seconds", lambda seconds: len(seconds) >= until)

    def failed(self) -> Counter[str]:
        """All calls that failed."""
        return sum((second.failed for second in self.seconds), Counter[str]())

    def calls(self) -> int:
        return sum(second.served.total() for second in self.seconds)

    def close(self) -> None:
        os.killpg(self._process.pid, 15)
        self._process.wait()
        self._thread.join()


class Deployed:
    """One project in one namespace, in the mode that it was last deployed in."""

    def __init__(self, project: Path, namespace: str, image: str) -> None:
        self.project, self.namespace, self.image = project, namespace, image

    def environment(self, **variables: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        own = {
            "NAMESPACE": self.namespace,
            "IMAGE": self.image,
            "BUILD": "no",
            "ETCD_IMAGE": "localhost/etcd:3.6",
            "TIMEOUT": str(DEADLINE),
        }
        return {**clean, **own, **variables}

    @staticmethod
    def command(target: str, *arguments: str) -> list[str]:
        return ["make", "-s", target, *arguments]

    def ask(
        self, target: str, *arguments: str, seconds: float = 2 * DEADLINE, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A make target, whatever comes of it."""
        environment = self.environment(**variables)
        return subprocess.run(
            self.command(target, *arguments), cwd=self.project, env=environment, capture_output=True, text=True, timeout=seconds
        )

    def make(self, target: str, *arguments: str, **variables: str) -> str:
        """A make target that must succeed; what it printed."""
        done = self.ask(target, *arguments, seconds=2 * DEADLINE, **variables)
        assert done.returncode == 0, f"make {target}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str) -> str:
        return kubectl("--namespace", self.namespace, *arguments)

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/part-of={self.project.name}"

    def pods(self, role: str) -> list[dict[str, Any]]:
        """Those that are not about to end."""
        found = json.loads(self.kubectl("get", "pods", "-o", "json", "-l", f"app.kubernetes.io/name={self.project.name}-{role}"))[
            "items"
        ]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def gone(self, role: str, *names: str) -> None:
        """Wait until pods have ended, their drain included."""
        self.kubectl("wait", "--for=delete", f"--timeout={DEADLINE:.0f}s", *(f"pod/{name}" for name in names))

    def setting(self, role: str, **values: str) -> None:
        """Edit the role's kustomization.yaml, as a person does."""
        path = self.project / "deploy" / role / "kustomization.yaml"
        lines = [
            line for line in path.read_text().splitlines() if line.strip().removeprefix("- ").partition("=")[0] not in values
        ]
        at = lines.index("    literals:") + 1
        lines[at:at] = [f"      - {name}={value}" for name, value in values.items()]
        path.write_text("\n".join(lines) + "\n")

    def quicken(self) -> None:
        """Drains that a test can wait for, a deadline that a busy machine keeps, and room for many pods on one small node."""
        self.setting("server", **variables(SERVER__DRAIN__WAIT="3s"))
        self.setting("client", **variables(CLIENT__TIMEOUT="10s"))
        for path in self.project.glob("deploy/*/deployment.yaml"):
            assert "cpu: 100m" in path.read_text()
            path.write_text(path.read_text().replace("cpu: 100m", "cpu: 10m"))

    @contextmanager
    def followed(self) -> Iterator[Logs]:
        """Its logs while the block runs, which begins when calls are shown."""
        logs = Logs(self)
        try:
            logs.wait("a first second", lambda seconds: bool(seconds))
            yield logs
        finally:
            logs.close()
