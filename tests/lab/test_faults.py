"""The faults that are over within seconds; `make faults` tries them all."""

import pytest

from lab.faults.__main__ import ALL, run
from lab.faults.catalog import Fault
from lab.faults.page import page
from lab.project import Project

QUICK = [
    pytest.param(fault, id=fault.name, marks=[getattr(pytest.mark, need) for need in fault.needs if need in ("etcd", "cluster")])
    for fault in ALL
    if fault.quick
]


@pytest.mark.parametrize("fault", QUICK)
async def test_its_promise_holds(project: Project, fault: Fault) -> None:
    """On real processes, registries and disks; skipped, with the reason, where this machine lacks something."""
    for reason in fault.missing():
        pytest.skip(reason)
    row = await run(fault, project)
    assert row.held, row
    assert fault.promise in page([row], [], "here")


def test_every_fault_has_a_name_of_its_own_and_a_promise() -> None:
    """The table has nothing else to go by."""
    assert len({fault.name for fault in ALL}) == len(ALL)
    assert all(fault.promise.endswith(".") for fault in ALL)
