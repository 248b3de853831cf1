"""The business code: this is the file to edit."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import grpc

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc

Context = Any
"""grpc.aio.ServicerContext, for every pair of messages."""

NAME = pb.DESCRIPTOR.services_by_name["GreeterService"].full_name
"""The service's full name, under which its health is asked for."""


class Greeter(rpc.GreeterServiceServicer):
    """Greets, and says which server did. `served_by` is this server's name."""

    def __init__(self, served_by: str) -> None:
        self._served_by = served_by

    async def Greet(  # noqa: N802
        self, request: pb.GreetRequest, context: Context
    ) -> pb.GreetResponse:
        return pb.GreetResponse(message=f"Hello, {request.name or 'stranger'}!", served_by=self._served_by)

    async def WatchGreetings(  # noqa: N802
        self, request: pb.WatchGreetingsRequest, context: Context
    ) -> AsyncIterator[pb.WatchGreetingsResponse]:
        interval = request.interval.ToTimedelta().total_seconds() if request.HasField("interval") else 1.0
        if not 0.001 <= interval <= 3600:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"interval is {interval:g} s; it must be between 1 ms and 1 h")
        for number in count(1):
            yield pb.WatchGreetingsResponse(
                message=f"Hello number {number}, {request.name or 'stranger'}!", served_by=self._served_by
            )
            if number == request.count:
                return
            await asyncio.sleep(interval)
