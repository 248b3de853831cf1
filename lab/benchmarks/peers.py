"""Processes that the measured one talks to, so that their cost is not counted."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

METHOD = "/test.Echo/Say"

_SERVER = """
import asyncio, sys
import grpc, grpc.aio

async def say(request, context):
    return NAME

async def watch(request, context):  # grpc.health.v1: SERVING, for as long as the server lives
    yield bytes([8, 1])
    await asyncio.Event().wait()

async def main():
    global NAME
    NAME = sys.argv[1].encode()
    # By itself a server cancels what waits beyond 1,000 calls; here one process stands for hundreds of servers.
    unlimited = [("grpc.server.max_pending_requests", 100_000), ("grpc.server.max_pending_requests_hard_limit", 100_000)]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *unlimited])
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    health = {"Watch": grpc.unary_stream_rpc_method_handler(watch)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),))
    print(server.add_insecure_port("0.0.0.0:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


def method(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The servers' one method."""
    return channel.unary_unary(METHOD)


@contextlib.contextmanager
def servers(count: int) -> Iterator[list[int]]:
    """Ports of so many echo servers, each a process that listens on every loopback address and answers with its number."""
    processes = [
        subprocess.Popen([sys.executable, "-c", _SERVER, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    try:
        ports = [int(process.stdout.readline()) for process in processes if process.stdout]
        for port in ports:  # a server's first call takes it some milliseconds more
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                method(channel)(b"x", timeout=20, wait_for_ready=True)
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()
