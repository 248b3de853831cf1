"""The generated server's throughput with all interceptors against a bare one. Runs in a baked project's environment."""

import json
import subprocess
from collections.abc import Iterator

from tests.bake import ROOT, bake

from .report import Row, row

_PROGRAM = """
import asyncio, json, sys, time
import grpc.aio
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from greeter_pair.interceptors import ServerMetrics
from greeter_pair.options import server_options
from greeter_pair.server.servicer import Greeter
from greeter_pair.settings import Settings

metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
tracers = TracerProvider(ParentBasedTraceIdRatio(0.1))
tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
trace.set_tracer_provider(tracers)

async def started(interceptors):
    server = grpc.aio.server(interceptors=interceptors, options=server_options(Settings()))
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Greeter("x"), server)
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
    kinds = {"bare": [], "metrics": [ServerMetrics()], "metrics and traces": [aio_server_interceptor(), ServerMetrics()]}
    made = {name: await started(interceptors) for name, interceptors in kinds.items()}
    for _, _, stub in made.values():
        await rate(stub)
    rounds = []
    for number in range(15):
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
    project = bake(ROOT / "build" / "bench")
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
    goals: dict[str, float | None] = {"metrics": None, "metrics and traces": 0.95}
    for name, goal in goals.items():
        yield row(f"server calls/s, {name} / bare", "ratio", [each[name] / each["bare"] for each in rounds], goal, at_least=True)
    yield row("server calls/s, bare, one process with its client", "1/s", [each["bare"] for each in rounds])
