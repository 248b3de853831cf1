"""The generated server's throughput with all interceptors against a bare one. Runs in a baked project's environment."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bake import ROOT, bake

from .report import Row, row

_PROGRAM = """
import asyncio, json, sys, time
import grpc.aio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from greeter_pair.interceptors import ServerCalls
from greeter_pair.options import server_options
from greeter_pair.server.servicer import Greeter
from greeter_pair.settings import Settings

metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
tracers = TracerProvider(ParentBasedTraceIdRatio(1.0))
tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
trace.set_tracer_provider(tracers)

async def started(on):
    server = grpc.aio.server(options=server_options(Settings()))
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Greeter("x"), on(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return server, channel, greeter_pb2_grpc.GreeterServiceStub(channel)

async def rate(stub, calls=1600, loops=16):
    async def loop():
        for _ in range(calls // loops):
            await stub.Greet(greeter_pb2.GreetRequest(name="x"), timeout=20)
    began = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(loops)))
    return calls / (time.perf_counter() - began)

async def main():
    kinds = {"bare": lambda server: server, "measured": ServerCalls(0.1).on}
    made = {name: await started(on) for name, on in kinds.items()}
    for _, _, stub in made.values():
        await rate(stub)
    rounds = []
    for number in range(30):
        order = list(made)[:: 1 if number % 2 else -1]
        rounds.append({name: await rate(made[name][2]) for name in order})
    print(json.dumps(rounds))
    for server, channel, _ in made.values():
        await channel.close()
        await server.stop(0)

asyncio.run(main())
"""


def measure() -> Iterator[Row]:
    """Server and client share the process here, so a ratio of the server alone would be a little further from one."""
    with tempfile.TemporaryDirectory() as folder:
        rounds = _rounds(bake(Path(folder)))
    ratios = [each["measured"] / each["bare"] for each in rounds]
    yield row("server calls/s, metrics and traces on (10 % sampled) / bare", "ratio", ratios, 0.95, at_least=True)
    yield row("server calls/s, bare, one process with its client", "1/s", [each["bare"] for each in rounds])


def _rounds(project: Path) -> list[dict[str, float]]:
    environment = ROOT / "build" / "venv"
    subprocess.run(["make", "-s", "-C", project, environment / "installed", f"VENV={environment}"], check=True)
    done = subprocess.run(
        [environment / "bin" / "python", "-c", _PROGRAM],
        cwd=project,
        env={"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    rounds: list[dict[str, float]] = json.loads(done.stdout)
    return rounds
