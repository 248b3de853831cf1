"""What a client is as a process, mode by mode, beside a plain grpc.aio channel on a list: how soon it gets its first answer,
how much memory it holds, what it costs while nothing happens."""

import atexit
import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import discovery
from discovery.testing import dns_server, etcd

from .peers import servers
from .registries.writers import Etcd, Kubernetes, namespace
from .report import Row, fewer, row

STARTS = IMPORTS = 20
MANY = 1000
IDLE = float(os.environ.get("BENCH_IDLE", "10"))  # seconds
NAME = "bench.test."

IMPORT_GOAL = 50.0
"""Milliseconds that `import discovery` may take more than `import grpc`, which it includes."""

START_GOAL, MEMORY_GOAL = 100.0, 16.0
"""What discovery may add to a client on a plain list: milliseconds, megabytes."""

OTHER_GOALS = {"kubernetes": (150.0, 16.0), "kubernetes by a kubeconfig": (None, None)}
"""A kubeconfig is read by the official client, which has its own weight; in a pod no library is needed, but TLS is."""

IDLE_GOALS = {"manual": 10.0, "static": 10.0, "etcd": 10.0, "kubernetes": 10.0, "dns-poll": 20.0}
"""Milliseconds a second: a hundredth of a core, and twice that where the whole set is asked for every 5 s."""

WATCHED = ("static", "dns-poll")
"""Whose registry reports no health."""

_PROGRAM = """
import asyncio, json, sys
given = json.loads(sys.argv[1])
if given["plain"]:
    import grpc.aio
    options = [("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')]
    options.append(("grpc.default_authority", "bench"))  # a list of 1,000 is longer than a header may be
    make = lambda: grpc.aio.insecure_channel(given["target"], options)
else:
    import discovery
    if given["target"].startswith("kubernetes"):  # whose API takes no loopback addresses
        from types import SimpleNamespace
        from discovery.sources.kubernetes import endpoint_slices, source
        source.json = endpoint_slices.json = SimpleNamespace(loads=lambda text: json.loads(text.replace(b'"198.18.', b'"127.18.')))
        source.ACCOUNT = given["account"]
    if given["places"]:
        manual = discovery.Manual("bench")
        manual.set(given["places"])
    config = discovery.Config(
        dns=discovery.Dns(servers=tuple(given["dns"])), etcd=discovery.Etcd(endpoints=tuple(given["etcd"]) or ("127.0.0.1:2379",))
    )
    make = lambda: discovery.aio.insecure_channel(given["target"], config=config)
async def main():
    async with make() as channel:
        await channel.unary_unary("/test.Echo/Say")(b"x", timeout=60)
        print("answered", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


@functools.cache
def _compiled() -> dict[str, str]:
    """The environment of a client that finds everything compiled, as it is when installed, once it was imported by another."""
    folder = tempfile.mkdtemp(prefix="bench-pycache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": str(Path(discovery.__file__).parents[1]), "PYTHONPYCACHEPREFIX": folder}


@dataclass(frozen=True)
class Mode:
    """One way to name servers, and what the client must be told for it."""

    name: str
    target: str
    plain: bool = False
    places: Sequence[str] = ()
    dns: Sequence[str] = ()
    etcd: Sequence[str] = ()
    account: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Process:
    """A client that has its first answer when the block begins. took: milliseconds from its start until then."""

    mode: Mode
    took: float = 0.0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def __enter__(self) -> "Process":
        command = [sys.executable, "-c", _PROGRAM, json.dumps(vars(self.mode))]
        began = time.perf_counter()
        self._process = subprocess.Popen(
            command, env={**_compiled(), **self.mode.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "answered\n":
            self.__exit__()
            raise RuntimeError(f"a client has had no answer: {self.mode.name}")
        self.took = (time.perf_counter() - began) * 1000
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    @property
    def memory(self) -> float:
        """Resident megabytes."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu(self) -> float:
        """Milliseconds, read from outside so that the process is not disturbed (clock_getcpuclockid)."""
        assert self._process is not None
        return time.clock_gettime((~self._process.pid << 3) | 2) * 1000


@contextlib.contextmanager
def _modes(addresses: Sequence[str], port: int) -> Iterator[list[Mode]]:
    """Every mode that can be had here, on these servers; the first is the peer."""
    listed = [f"{address}:{port}" for address in addresses]
    with contextlib.ExitStack() as stack:
        zone = stack.enter_context(dns_server())
        zone.records(NAME, *(f"A {address}" for address in addresses))
        found = [
            Mode("gRPC alone, ipv4: list", f"ipv4:{','.join(listed)}", plain=True),
            Mode("manual", "manual:///bench", places=listed),
            Mode("static", f"static:///{','.join(listed)}"),
            Mode("dns-poll", f"dns-poll:///{NAME}:{port}", dns=[zone.address]),
            Mode("dns (gRPC's own resolver)", f"dns://{zone.address}/{NAME}:{port}"),
            Mode("passthrough", f"passthrough:///{listed[0]}"),
        ]
        if shutil.which("etcd"):
            server = stack.enter_context(etcd())
            Etcd(server, "etcd:///bench").fill(listed)
            found.append(Mode("etcd", "etcd:///bench", etcd=[server.address]))
        if os.environ.get("KUBECONFIG") and shutil.which("kubectl"):
            kubernetes = Kubernetes(stack.enter_context(namespace()))
            kubernetes.fill([place.replace("127.18.", "198.18.") for place in listed])
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            found.append(Mode("kubernetes", kubernetes.target, account=folder, variables=kubernetes.account(Path(folder))))
            found.append(Mode("kubernetes by a kubeconfig", kubernetes.target))
        yield found


def measure(quick: bool) -> Iterator[Row]:
    """Modes take turns, so that what else the machine does falls on all of them."""
    yield from _imports(fewer(IMPORTS, quick))
    many = 100 if quick else MANY
    with servers(1) as [port]:
        with _modes([f"127.18.0.{number}" for number in range(1, 4)], port) as modes:
            yield from _starts(modes, fewer(STARTS, quick))
        with _modes([f"127.18.{number // 250}.{number % 250 + 1}" for number in range(many)], port) as modes:
            yield from _idle(modes, many, min(IDLE, 1.0) if quick else IDLE)


def _imports(count: int) -> Iterator[Row]:
    """In turns, each in a process of its own, from compiled files."""
    costs: dict[str, list[float]] = {"grpc": [], "discovery": []}
    for number in range(count + 1):
        for name, found in costs.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", f"import {name}"], env=_compiled(), check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if number:  # the first one compiles
                found.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
    more = [ours - theirs for ours, theirs in zip(costs["discovery"], costs["grpc"], strict=True)]
    yield row("CPU of a process that imports grpc", "ms", costs["grpc"])
    yield row("CPU of a process that imports discovery: more than that", "ms", more, IMPORT_GOAL)


def _starts(modes: Sequence[Mode], count: int) -> Iterator[Row]:
    took: dict[str, list[float]] = {mode.name: [] for mode in modes}
    memory: dict[str, list[float]] = {mode.name: [] for mode in modes}
    for mode in modes:
        with Process(mode):
            pass  # compiles
    for _ in range(count):
        for mode in modes:
            with Process(mode) as process:
                took[mode.name].append(process.took)
                memory[mode.name].append(process.memory)
    peer, *others = took
    yield row(f"process start to first answer, {peer}", "ms", took[peer])
    for name in others:
        more = [ours - theirs for ours, theirs in zip(took[name], took[peer], strict=True)]
        yield row(f"process start to first answer, {name}: more than that", "ms", more, OTHER_GOALS.get(name, (START_GOAL,))[0])
    yield row(f"memory of a client, 3 servers, {peer}", "MB", memory[peer])
    for name in others:
        more = [ours - theirs for ours, theirs in zip(memory[name], memory[peer], strict=True)]
        yield row(
            f"memory of a client, 3 servers, {name}: more than that",
            "MB",
            more,
            OTHER_GOALS.get(name, (None, MEMORY_GOAL))[1],
        )


def _idle(modes: Sequence[Mode], many: int, seconds: float) -> Iterator[Row]:
    for mode in (mode for mode in modes if mode.plain or mode.name in IDLE_GOALS):
        with Process(mode) as process:
            time.sleep(1 + many / 250)  # until every connection stands; nothing tells
            before, costs = process.cpu, []
            for _ in range(10):
                time.sleep(seconds / 10)
                costs.append((process.cpu - before) / (seconds / 10))
                before = process.cpu
        watched = "" if mode.name not in WATCHED else ", the health of each watched"
        yield row(f"CPU of an idle client, {many:,} endpoints, {mode.name}{watched}", "ms/s", costs, IDLE_GOALS.get(mode.name))
