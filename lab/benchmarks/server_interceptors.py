"""The generated server's throughput with metrics and traces against a bare one, as a program in the project's interpreter."""

import json
import subprocess
from collections.abc import Iterator

from lab.project import Project, empty_folder, last_lines

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
from google.protobuf.descriptor_pool import Default
package = sys.argv[1]
from importlib import import_module
ServerCalls = import_module(f"{package}.calls.telemetry").ServerCalls
server_options = import_module(f"{package}.server.options").server_options
services = import_module(f"{package}.server.servicer").services
Settings = import_module(f"{package}.settings").Settings

metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
tracers = TracerProvider(ParentBasedTraceIdRatio(1.0))
tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
trace.set_tracer_provider(tracers)

# The path of a service's first method that neither takes nor answers with a stream.
def first_unary(name):
    for method in Default().FindServiceByName(name).methods:
        if not method.client_streaming and not method.server_streaming:
            return f"/{name}/{method.name}"

async def started(listed, on):
    server = grpc.aio.server(options=server_options(Settings()))
    for service in listed:
        service.register(service.servicer, on(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return server, channel, channel.unary_unary(next(filter(None, (first_unary(service.name) for service in listed))))

async def rate(call, calls=1600, loops=16):
    async def loop():
        for _ in range(calls // loops):
            try:
                await call(b"", timeout=20)  # an empty message is valid, whatever its type
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                    raise  # what has failed is not measured
    began = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(loops)))
    return calls / (time.perf_counter() - began)

async def main():
    kinds = {"bare": lambda server: server, "measured": ServerCalls(0.1).on}
    async with services(Settings()) as listed:
        made = {name: await started(listed, on) for name, on in kinds.items()}
        for _, _, call in made.values():
            await rate(call)
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


def measure(project: Project) -> Iterator[Row]:
    """Server and client share the process here, so a ratio of the server alone would be a little further from one."""
    rounds = _rounds(project)
    ratios = [each["measured"] / each["bare"] for each in rounds]
    yield row("server calls/s, metrics and traces on (10 % sampled) / bare", "ratio", ratios, 0.95, at_least=True)
    yield row("server calls/s, bare, one process with its client", "1/s", [each["bare"] for each in rounds])


def _rounds(project: Project) -> list[dict[str, float]]:
    done = subprocess.run(
        [str(project.python), "-c", _PROGRAM, project.package],
        cwd=empty_folder(),
        env=project.environment({}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the server's calls cannot be measured: {last_lines(done.stderr)}")
    rounds: list[dict[str, float]] = json.loads(done.stdout)
    return rounds
