"""A generated project's servers restarted one after the other while its own client calls without retries: who loses a call?

Servers are the project's processes and end by its drain. On `static` nothing but their health tells the client; on `etcd` they
register and deregister themselves. The next server goes when the one before says SERVING, as in a Deployment.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bake import ROOT, bake

from .registries.writers import etcd_server
from .report import Row, row

ROUNDS, CALLS, RATE = 10, 10_000, 1000

_PROGRAM = """
import asyncio, json, sys
from collections import Counter
from demo.pair import GreeterClient, Loop, Settings
from demo.servers import Server, places

registry, rounds, calls, rate = sys.argv[1], *map(int, sys.argv[2:5])

async def main():
    told = {"SERVER__MAX_CONCURRENT_RPCS": "none"}
    etcd = {"etcd": {"endpoints": (registry,)}} if registry else {}
    if registry:
        told |= {"REGISTRATION__TARGET": "etcd:///rolling", "DISCOVERY__ETCD__ENDPOINTS": json.dumps([registry])}
    servers = [Server(f"server-{number}", *place) for number, place in enumerate(places(["127.0.2.1", "127.0.2.2", "127.0.2.3"]), 1)]
    for server in servers:
        server.told = {**told, **({"REGISTRATION__ADDRESS": server.authority} if registry else {})}
    target = "etcd:///rolling" if registry else "static:///" + ",".join(server.authority for server in servers)
    settings = Settings(
        client={"target": target, "rate": rate, "retry": {"enabled": False}, "timeout": 20.0}, discovery=etcd,
        server={"max_connection_age_grace": 30.0},
    )
    codes, slowest, made = Counter(), 0.0, 0
    def told_of(result):
        nonlocal made, slowest
        made += 1
        codes[result.code] += 1
        slowest = max(slowest, result.duration)
    found = []
    try:
        for server in servers:
            await server.start()
        async with GreeterClient.connect(settings) as greeter:
            await greeter.greet("x")
            stopping = asyncio.Event()
            going = asyncio.create_task(Loop(greeter, settings.client, told_of).run(stopping))
            for number in range(rounds):
                slowest, before, good = 0.0, made, codes["OK"]
                for server in servers:
                    server.drain()
                    await server.ended()
                    await server.start()
                while made < before + calls:
                    await asyncio.sleep(0.05)
                calls_here = made - before
                found.append({"calls": calls_here, "failed": calls_here - codes["OK"] + good, "slowest": slowest * 1000})
            stopping.set()
            await going
    finally:
        await asyncio.gather(*(server.close() for server in servers))
    print(json.dumps(found))

asyncio.run(main())
"""


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> Iterator[Row]:
    """A call that waits for a server counts as slow, not as failed: its deadline is 20 s."""
    with tempfile.TemporaryDirectory() as folder:
        project = bake(Path(folder))
        yield from _rows("static", _rounds(project, "", rounds, calls))
        if shutil.which("etcd"):
            with etcd_server() as server:
                yield from _rows("etcd", _rounds(project, server.address, rounds, calls))


def _rows(name: str, found: list[dict[str, float]]) -> Iterator[Row]:
    what = f"{name}: {len(found)} rolling restarts of 3 servers, no retry"
    yield row(f"{what}: calls in each", "calls", [each["calls"] for each in found], CALLS, at_least=True)
    yield row(f"{what}: failed calls in all", "calls", [sum(each["failed"] for each in found)], 0)
    yield row(f"{what}: the slowest call in each", "ms", [each["slowest"] for each in found])


def _rounds(project: Path, registry: str, rounds: int, calls: int) -> list[dict[str, float]]:
    environment = ROOT / "build" / "venv"
    subprocess.run(["make", "-s", "-C", project, environment / "installed", f"VENV={environment}"], check=True)
    done = subprocess.run(
        [environment / "bin" / "python", "-c", _PROGRAM, registry, str(rounds), str(calls), str(RATE)],
        cwd=project, env={"PYTHONPATH": "src:."}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the rolling restart could not be made: {done.stderr[-2000:]}")
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found
