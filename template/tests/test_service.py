"""The service, through its own client and a real connection. Replace the example with tests of your methods."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from {{ cookiecutter.package_name }}.client.api import {{ cookiecutter.__service }}Client


@pytest.fixture
async def client(address: str) -> AsyncIterator[{{ cookiecutter.__service }}Client]:
    async with {{ cookiecutter.__service }}Client(f"static:///{address}", timeout=20.0) as client:
        yield client


async def test_it_greets_by_name(client: {{ cookiecutter.__service }}Client) -> None:
    """Without a name, it greets a stranger."""
    assert (await client.greet("Ada")).message == "Hello, Ada!"
    assert (await client.greet("")).message == "Hello, stranger!"


async def test_a_stream_has_as_many_greetings_as_requested(client: {{ cookiecutter.__service }}Client) -> None:
    """Then the stream ends."""
    greetings = [greeting.message async for greeting in client.watch_greetings("Ada", interval=0.001, count=2)]
    assert greetings == ["Hello number 1, Ada!", "Hello number 2, Ada!"]


async def test_an_interval_out_of_range_is_an_invalid_argument(client: {{ cookiecutter.__service }}Client) -> None:
    """The error names the range."""
    with pytest.raises(grpc.aio.AioRpcError, match="between 1 ms and 1 h") as error:
        await anext(client.watch_greetings("Ada", interval=0.0))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_ends_at_its_deadline(client: {{ cookiecutter.__service }}Client) -> None:
    """Messages before the deadline arrive."""
    greetings = client.watch_greetings("Ada", interval=3600.0, timeout=1.0)
    assert (await anext(greetings)).message == "Hello number 1, Ada!"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(greetings)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
