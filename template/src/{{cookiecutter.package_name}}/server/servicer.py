"""Your service: replace the example, and list every service of the server at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc
import grpc.aio

from ..discovery.calls import serving
from ..discovery.calls.status_details import invalid_argument
from ..settings import Settings
from ..v1 import {{ cookiecutter.package_name }}_pb2 as pb
from ..v1 import {{ cookiecutter.package_name }}_pb2_grpc as rpc
from . import Service

Context = grpc.aio.ServicerContext[Any, Any]


class {{ cookiecutter.__service }}Servicer(rpc.{{ cookiecutter.__service }}ServiceServicer):
    """Greets people."""

    async def Greet(self, request: pb.GreetRequest, context: Context) -> pb.GreetResponse:
        return pb.GreetResponse(message=f"Hello, {request.name or 'stranger'}!")

    async def WatchGreetings(
        self, request: pb.WatchGreetingsRequest, context: Context
    ) -> AsyncIterator[pb.WatchGreetingsResponse]:
        interval = request.interval.ToTimedelta().total_seconds() if request.HasField("interval") else 1.0
        if not 0.001 <= interval <= 3600:
            await invalid_argument(context, {"interval": f"{interval:g} s is not between 1 ms and 1 h"})
        for number in count(1):
            yield pb.WatchGreetingsResponse(message=f"Hello number {number}, {request.name or 'stranger'}!")
            if number == request.count:
                return
            if request.count:
                await asyncio.sleep(interval)
            elif await serving.draining(interval):  # only a stream without end has to end before the server does
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this server drains; call again")


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[list[Service]]:
    """Every service of the server. What is opened before the `yield` is open before the first call; it is closed after the drain."""
    yield [
        Service(
            pb.DESCRIPTOR.services_by_name["{{ cookiecutter.__service }}Service"].full_name,
            rpc.add_{{ cookiecutter.__service }}ServiceServicer_to_server,
            {{ cookiecutter.__service }}Servicer(),
        ),
    ]
