"""The generated server's throughput with all that it adds to calls, against a bare server of the same services."""

import json
import subprocess
from collections.abc import Iterator

from lab.project import Project, empty_folder, last_lines

from .report import Row, row

_PROGRAM = """
import asyncio, json, sys, time
import grpc.aio
from google.protobuf.descriptor_pool import Default
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from importlib import import_module
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
package, ratio = sys.argv[1], float(sys.argv[2])
build = import_module(f"{package}.server.app").build
server_options = import_module(f"{package}.server.options").server_options
services = import_module(f"{package}.server.servicer").services
settings = import_module(f"{package}.settings").Settings()

# The path of a service's first method that neither takes nor answers with a stream.
def first_unary(name):
    for method in Default().FindServiceByName(name).methods:
        if not method.client_streaming and not method.server_streaming:
            return f"/{name}/{method.name}"

def measure_calls():
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    tracers = TracerProvider(ParentBasedTraceIdRatio(ratio))
    tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    trace.set_tracer_provider(tracers)

async def bare(listed):
    server = grpc.aio.server(options=server_options(settings))
    for service in listed:
        service.register(service.servicer, server)
    # Every further service costs each call 2 us in grpc.aio itself, so both servers have the same ones.
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer([]), server)
    channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port

async def generated(listed):
    app = await build(settings, listed)
    await app.start()
    return app, app.port

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
    async with services(settings) as listed:
        servers = {"bare": await bare(listed), "generated": await generated(listed)}
        measure_calls()
        servers["measured"] = await generated(listed)
        method = next(filter(None, (first_unary(service.name) for service in listed)))
        channels = {name: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for name, (_, port) in servers.items()}
        calls = {name: channel.unary_unary(method) for name, channel in channels.items()}
        for call in calls.values():
            await rate(call)
        rounds = []
        for number in range(30):
            order = list(calls)[:: 1 if number % 2 else -1]
            rounds.append({name: await rate(calls[name]) for name in order})
        print(json.dumps(rounds))
        for name, channel in channels.items():
            await channel.close()
            await getattr(servers[name][0], "server", servers[name][0]).stop(0)

asyncio.run(main())
"""


def measure(project: Project) -> Iterator[Row]:
    """Server and client share the process here, so a ratio of the server alone would be a little further from one."""
    unsampled, sampled = _rounds(project, 0.0), _rounds(project, 0.1)
    ratios = [each["measured"] / each["bare"] for each in unsampled]
    yield row("server calls/s, metrics and traces on, not sampled / bare", "ratio", ratios, 0.95, at_least=True)
    yield row("the same, 10 % sampled / bare", "ratio", [each["measured"] / each["bare"] for each in sampled])
    yield row("the same, metrics and traces off / bare", "ratio", [each["generated"] / each["bare"] for each in unsampled])
    yield row("server calls/s, bare, one process with its client", "1/s", [each["bare"] for each in unsampled])


def _rounds(project: Project, ratio: float) -> list[dict[str, float]]:
    done = subprocess.run(
        [str(project.python), "-c", _PROGRAM, project.package, str(ratio)],
        cwd=empty_folder(),
        env=project.environment({"SERVER__HOST": "127.0.0.1", "SERVER__PORT": "0"}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the server's calls cannot be measured: {last_lines(done.stderr)}")
    rounds: list[dict[str, float]] = json.loads(done.stdout)
    return rounds
