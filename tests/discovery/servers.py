"""Calls of discovery.testing's servers, and servers whose answers a test decides about."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from discovery.testing import FOLLOW, WHO, Backend, backends

DEADLINE = 20.0
"""Seconds after which a test gives up; nothing is asserted about shorter times."""

Behavior = Callable[[grpc.ServicerContext], None]


class Server(Backend):
    """One in this process. `behave` is called for every unary call and may abort it."""

    def __init__(self, name: str, address: str = "127.0.0.1:0", behave: Behavior | None = None) -> None:
        super().__init__(name, address, functools.partial(_serve, behave) if behave else None, health=False)


def _serve(behave: Behavior, server: grpc.Server, name: str) -> None:
    def who(request: bytes, context: grpc.ServicerContext) -> bytes:
        behave(context)
        return name.encode()

    service, method = WHO.removeprefix("/").split("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))


@contextmanager
def servers(*names: str) -> Iterator[Mapping[str, Backend]]:
    """Servers in this process without a health service, by name."""
    with backends(names, health=False, processes=False) as started:
        yield {server.name: server for server in started}


def unary(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The unary method of a channel."""
    return channel.unary_unary(WHO)


def streaming(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The method of a channel that answers with a stream."""
    return channel.unary_stream(FOLLOW)


def who(channel: grpc.Channel, **kwargs: object) -> str:
    """Who answers one call."""
    return str(unary(channel)(b"", timeout=DEADLINE, **kwargs).decode())


def share(channel: grpc.Channel, calls: int = 300) -> Counter[str]:
    """Who answers how many of `calls`."""
    call = unary(channel)
    return Counter(call(b"", timeout=DEADLINE).decode() for _ in range(calls))


def until(condition: Callable[[], bool]) -> None:
    """Repeat until true, for what only gRPC knows and tells no one."""
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, "it did not become true"
        time.sleep(0.002)  # to leave the processor to those who make it true
