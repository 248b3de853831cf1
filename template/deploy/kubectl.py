"""Programs that deploying runs, kubectl above all, with errors as sentences."""

import json
import re
import shlex
import shutil
import subprocess
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
