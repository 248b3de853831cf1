"""A generated server under load for minutes with everything on: does anything grow, and does gRPC itself write a line?

Its own service has handlers of every kind, of whose calls one in a hundred raises. Telemetry goes to an OTLP/HTTP endpoint, calls come by
mTLS from a client that the rules allow, and callers leave streams and let deadlines pass.
"""

import asyncio
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio

from lab.project import Project, empty_folder, last_lines

from ..report import Row, row
from ..stress import Outcome
from .callers import LIMIT, Callers
from .surroundings import certificates, collector

LOOPS = 16
"""Callers at the same time."""


def _middle(samples: Sequence[Sequence[float]]) -> list[float]:
    """Of each figure."""
    return [statistics.median(figures) for figures in zip(*samples, strict=True)]


async def _load(address: str, credentials: grpc.ChannelCredentials, seconds: float) -> tuple[list[Row], list[str]]:
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        client = Callers(channel)
        end, samples = time.monotonic() + seconds, [await client.counted()]
        loops = asyncio.gather(*(client.loop(end) for _ in range(LOOPS)))
        while time.monotonic() < end:
            await asyncio.sleep(min(1.0, seconds / 20))
            samples.append(await client.counted())
        await loops
        # What the last callers have left takes the server a moment.
        last = await client.counted()
        for _ in range(50):
            if last[3] <= samples[0][3]:
                break
            await asyncio.sleep(0.1)
            last = await client.counted()
        slots = [await client.fill() for _ in range(3)][-1]
    fifth = len(samples) // 5
    early, late = _middle(samples[fifth : 2 * fifth]), _middle(samples[-fifth:])
    what = f"{seconds:g} s of calls of all kinds, 1 % raising, everything on"
    wrong = [
        f"{code}: {count}" for code, count in client.codes.items() if code not in ("OK", "left", "INTERNAL", "DEADLINE_EXCEEDED")
    ]
    rows = [
        row(f"{what}: calls", "calls", [client.codes.total()]),
        row(f"{what}: INTERNAL calls", "calls", [client.codes["INTERNAL"]]),
        row(f"{what}: memory after a fifth of the time", "MB", [early[0]]),
        row(f"{what}: growth of memory from then on", "MB", [late[0] - early[0]], 5),
        row(f"{what}: growth of threads", "threads", [late[1] - early[1]], 2),
        row(f"{what}: growth of descriptors", "descriptors", [late[2] - early[2]], 5),
        row(f"{what}: tasks left in the end", "tasks", [last[3] - samples[0][3]], 0),
        row(f"{what}: calls admitted at once in the end, of {LIMIT}", "calls", [slots], LIMIT, at_least=True),
        row(f"{what}: handlers that raised", "calls", [last[4]]),
    ]
    return rows, wrong


def run(project: Project, seconds: float) -> Outcome:
    """The server's lines are judged when it has ended: one for each handler that raised, and all of them JSON."""
    with certificates() as (settings, credentials), collector() as (url, exported):
        given = {
            "SERVER__HOST": "127.0.0.1",
            "SERVER__PORT": "0",
            "SERVER__MAX_CONCURRENT_RPCS": str(LIMIT),
            "SERVER__DRAIN__WAIT": "0s",
            "LOG__FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_METRIC_EXPORT_INTERVAL": "2000",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            **settings,
        }
        with subprocess.Popen(
            [str(project.python), str(Path(__file__).with_name("service.py")), project.package],
            env=project.environment(given),
            cwd=empty_folder(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if "serving as" in line:
                    break
            else:
                raise RuntimeError(f"the server has not started: {last_lines(''.join(lines))}")
            port = lines[-1].partition("on port ")[2].partition('"')[0]
            reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
            reader.start()
            try:
                rows, wrong = asyncio.run(_load(f"127.0.0.1:{port}", credentials, seconds))
            finally:
                process.send_signal(signal.SIGTERM)
                status = process.wait(60)
                reader.join(60)
    raised = rows.pop().median
    errors = [line for line in lines if '"ERROR"' in line]
    other = [line for line in lines if not line.startswith("{")] + [line for line in errors if "one in a hundred" not in line]
    what = rows[0].name.rpartition(":")[0]
    rows += [
        row(f"{what}: lines about handlers that raised, less those", "lines", [abs(len(errors) - raised)], 0),
        row(f"{what}: lines of gRPC's own", "lines", [len(other)], 0),
        row(f"{what}: exports of telemetry", "exports", [exported.total()], 1, at_least=True),
        row(f"{what}: exit status", "", [status], 0),
    ]
    return Outcome(f"{what}: nothing grows, nothing is left", tuple(rows), wrong + other[:3])
