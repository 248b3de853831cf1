"""The faults by name, what each needs of this machine, and what came of one."""

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "etcd": (
        lambda: shutil.which("etcd") is not None,
        "needs etcd 3.4 or newer on PATH: apt-get install etcd-server",
    ),
    "cluster": (
        lambda: bool(os.environ.get("KUBECONFIG")) and shutil.which("kubectl") is not None,
        "needs kubectl on PATH, and KUBECONFIG set",
    ),
    "disturb": (
        lambda: bool(os.environ.get("FAULTS_STOP_API") and os.environ.get("FAULTS_START_API")),
        "disturbs the whole cluster: set FAULTS_STOP_API and FAULTS_START_API to commands that stop and start its API server",
    ),
    "root": (
        lambda: os.geteuid() == 0 and shutil.which("ip") is not None,
        "needs root, and ip on PATH: apt-get install iproute2",
    ),
    "libfaketime": (lambda: os.path.exists(LIBFAKETIME), "needs libfaketime: apt-get install faketime"),
}
"""What a fault may need: whether it is here, and how to get it."""


class NotTriedError(Exception):
    """The project's service has not what a fault needs; the text says what."""


@dataclass(frozen=True)
class Row:
    """What came of one fault. calls, failed: from the fault on, of the client's.   recovered: seconds from the fault until
    the last call began that failed or took more than a second; None where that is not the question.
    status, log: discovery's status and the log lines.   held: whether the promise did.   note: further figures.
    codes: the status codes of what failed, the most frequent first."""

    fault: str
    promise: str
    held: bool
    calls: int = 0
    failed: int = 0
    recovered: float | None = None
    status: str = ""
    log: str = ""
    note: str = ""
    codes: str = ""


@dataclass(frozen=True)
class Fault:
    """One of them. promise: what must hold.   quick: whether it is over within seconds."""

    name: str
    promise: str
    run: Callable[[Any], Awaitable[Row]]
    needs: tuple[str, ...] = ()
    quick: bool = False

    def missing(self) -> Iterator[str]:
        """What keeps it from being tried here, a sentence each."""
        for need in self.needs:
            here, how = NEEDS[need]
            if not here():
                yield how


FAULTS: list[Fault] = []
"""As they were put on the list; `python -m lab.faults` has them in the order of the table."""


def fault(
    name: str, *needs: str, quick: bool = False
) -> Callable[[Callable[[Any], Awaitable[Row]]], Callable[[Any], Awaitable[Row]]]:
    """Puts an `async def (harness) -> Row` on the list; its docstring is the promise."""

    def listed(run: Callable[[Any], Awaitable[Row]]) -> Callable[[Any], Awaitable[Row]]:
        FAULTS.append(Fault(name, " ".join((run.__doc__ or "").split()), run, needs, quick))
        return run

    return listed
