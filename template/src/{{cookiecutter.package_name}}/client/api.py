"""The typed client, which other services import. Replace the example by your own methods."""

from collections.abc import AsyncIterator
from functools import cached_property

from ..v1 import {{ cookiecutter.package_name }}_pb2 as pb
from ..v1 import {{ cookiecutter.package_name }}_pb2_grpc as rpc
from .channel import ServiceClient


class {{ cookiecutter.__service }}Client(ServiceClient):
    """Calls {{ cookiecutter.__service }}Service. See ServiceClient for the arguments."""

    @cached_property
    def _stub(self) -> "rpc.{{ cookiecutter.__service }}ServiceAsyncStub":
        return rpc.{{ cookiecutter.__service }}ServiceStub(self.channel)

    async def greet(self, name: str, *, timeout: float | None = None) -> pb.GreetResponse:
        """Greet once; `timeout` in seconds instead of the client's."""
        return await self.unary(self._stub.Greet, pb.GreetRequest(name=name), timeout)

    def watch_greetings(
        self, name: str, *, interval: float = 1.0, count: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.WatchGreetingsResponse]:
        """A greeting every `interval` seconds, `count` of them or until the caller stops or `timeout` seconds are over."""
        request = pb.WatchGreetingsRequest(name=name, count=count)
        request.interval.FromMicroseconds(round(interval * 1e6))
        return self.stream(self._stub.WatchGreetings, request, timeout)

    async def sample(self) -> None:
        """The call that the load generator makes: any one that changes nothing."""
        await self.greet("world")
