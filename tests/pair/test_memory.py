"""The server within a pod's memory: what callers send at once is refused or waits, and whoever else calls is answered."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from .processes import DEADLINE, Process, port_of

MEMORY = 256 * 1024 * 1024
"""The limit of the pod in the manifests, in bytes."""
GROUPS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}
"""Where control groups are, of version 1 and 2, and the file that limits one's memory."""
OWN_POOL = (("grpc.use_local_subchannel_pool", 1),)


@contextlib.contextmanager
def limited(name: str) -> Iterator[str]:
    """The file that a process writes itself to, to be killed above the limit; empty where nobody may limit one here."""
    for root, file in GROUPS.items():
        group = root / f"test-memory-{name}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(MEMORY))
        except OSError:
            group.rmdir()
            continue
        try:
            yield str(group / "cgroup.procs")
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
        return
    yield ""


@contextlib.contextmanager
def server(group: str) -> Iterator[tuple[Process, str, int]]:
    """A server that cannot have more memory than the pod; its address and process."""
    join = f"open({group!r}, 'w').write('0'); " if group else ""
    code = f"import os, runpy; {join}print('process', os.getpid(), flush=True); runpy.run_module('greeter.server', run_name='__main__')"
    settings = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0", "SERVER__MEMORY_LIMIT": str(MEMORY)}
    with Process("server", code, **settings) as process:
        number = int(process.wait_for(r"process (\d+)")[1])
        yield process, f"127.0.0.1:{port_of(process)}", number
        process.close()


def highest(process: int) -> int:
    """The most memory that a process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def code_of(call: Any) -> str:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@contextlib.asynccontextmanager
async def others(address: str) -> AsyncIterator[Counter[str]]:
    """Other clients' calls, meanwhile: health checks and small calls, by how they end."""
    codes: Counter[str] = Counter()
    ended = asyncio.Event()

    async def ask() -> None:
        async with grpc.aio.insecure_channel(address, options=OWN_POOL) as channel:
            check, greet = health_pb2_grpc.HealthStub(channel).Check, greeter_pb2_grpc.GreeterServiceStub(channel).Greet
            while not ended.is_set():
                for call in (
                    check(health_pb2.HealthCheckRequest(), timeout=DEADLINE),
                    greet(greeter_pb2.GreetRequest(), timeout=DEADLINE),
                ):
                    codes[await code_of(call)] += 1

    asking = asyncio.create_task(ask())
    try:
        yield codes
    finally:
        ended.set()
        await asking


@pytest.fixture
def limited_server(request: pytest.FixtureRequest) -> Iterator[tuple[Process, str, int]]:
    with limited(f"{request.node.name[:20]}-{id(request)}") as group, server(group) as started:
        yield started


async def test_ten_thousand_health_watches_on_one_connection(limited_server: tuple[Process, str, int]) -> None:
    """The first thousand are followed; the others are refused, by a code that says why."""
    process, address, number = limited_server
    codes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address, options=OWN_POOL) as channel, others(address) as answered:
        watch = health_pb2_grpc.HealthStub(channel).Watch

        async def follow() -> Any:
            call = watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            codes["OK" if await code_of(call.read()) == "OK" and not call.done() else (await call.code()).name] += 1
            return call

        calls = await asyncio.gather(*(follow() for _ in range(10_000)))
        assert highest(number) < MEMORY, "while they are open"
        for call in calls:
            call.cancel()
    assert codes == {"OK": 1000, "RESOURCE_EXHAUSTED": 9000}
    assert answered.keys() == {"OK"}
    process.wait_for(r"calls rejected within a second")


async def test_sixty_four_messages_of_four_mebibytes_at_once(limited_server: tuple[Process, str, int]) -> None:
    """Three times over. They wait for each other, and those that have waited for long are refused."""
    _, address, number = limited_server
    codes: Counter[str] = Counter()
    request = greeter_pb2.GreetRequest(name="x" * (4 * 1024 * 1024 - 100))
    async with grpc.aio.insecure_channel(address, options=(*OWN_POOL, ("grpc.max_receive_message_length", -1))) as channel:
        greet = greeter_pb2_grpc.GreeterServiceStub(channel).Greet
        async with others(address) as answered:
            for _ in range(3):
                codes.update(await asyncio.gather(*(code_of(greet(request, timeout=DEADLINE)) for _ in range(64))))
                assert highest(number) < MEMORY
    assert codes.keys() <= {"OK", "RESOURCE_EXHAUSTED"}, codes
    assert codes["OK"] >= 3 * 16
    assert answered.keys() == {"OK"}
