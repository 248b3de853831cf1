"""A program: a server with handlers of every kind and ending, as the service test.Kinds. Its messages are bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from greeter.client.channel import ServiceClient
from greeter.server import Service, servicer
from greeter.server.__main__ import main
from greeter.settings import Settings


async def returns(request: Any, context: Any) -> bytes:
    return b"one"


def plain(request: bytes, context: Any) -> bytes:
    return b"one"


async def yields(request: Any, context: Any) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"several"


async def writes(request: Any, context: Any) -> None:
    for _ in range(3):
        await context.write(b"several")


async def drips(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield b"more"
        await asyncio.sleep(0.001)


async def hangs(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(3600)
    return b""


async def aborts(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode[request.decode()], "on purpose")
    return b""


async def raises(request: bytes, context: Any) -> bytes:
    raise RuntimeError("could not connect: postgres://orders:s3cr3t@10.0.0.7/db")


CLIENTS: dict[str, ServiceClient] = {}


async def calls(request: bytes, context: Any) -> bytes:
    """The request is a target, and the code that its server's handler ends with, or nothing for OK."""
    target, code = request.decode().split(" ")
    client = CLIENTS.get(target) or CLIENTS.setdefault(target, ServiceClient(target))
    method: Any = client.channel.unary_unary(f"/test.Kinds/{'Aborts' if code else 'Returns'}")
    try:
        return bytes(await client.unary(method, code.encode(), 5.0))
    except grpc.aio.AioRpcError as error:
        return error.code().name.encode()


HANDLERS: dict[str, Any] = {
    "Returns": grpc.unary_unary_rpc_method_handler(returns),
    "Plain": grpc.unary_unary_rpc_method_handler(plain),
    "Yields": grpc.unary_stream_rpc_method_handler(yields),
    "Writes": grpc.unary_stream_rpc_method_handler(writes),
    "TakesStream": grpc.stream_unary_rpc_method_handler(returns),
    "Both": grpc.stream_stream_rpc_method_handler(yields),
    "Drips": grpc.unary_stream_rpc_method_handler(drips),
    "Hangs": grpc.unary_unary_rpc_method_handler(hangs),
    "Aborts": grpc.unary_unary_rpc_method_handler(aborts),
    "Raises": grpc.unary_unary_rpc_method_handler(raises),
    "Calls": grpc.unary_unary_rpc_method_handler(calls),
}


def register(_: object, server: Any) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", HANDLERS),))


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[list[Service]]:
    yield [Service("test.Kinds", register, None)]


if __name__ == "__main__":
    servicer.services = services
    main()
