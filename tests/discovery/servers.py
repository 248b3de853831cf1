"""Real gRPC servers on loopback for tests: each answers every call with its own name."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

METHOD = "/test.Echo/Who"
STREAM = "/test.Echo/Follow"
DEADLINE = 20.0
"""Seconds after which a test gives up; nothing is asserted about shorter times."""


class Server:
    """One server. `behave` is called for every unary call and may abort it; `seen` counts the calls that arrived."""

    def __init__(
        self, name: str, address: str = "127.0.0.1:0", behave: Callable[[grpc.ServicerContext], None] | None = None
    ) -> None:
        self.name = name
        self.seen = 0
        self._behave = behave
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(32), options=(("grpc.so_reuseport", 0),))
        handlers: dict[str, Any] = {
            "Who": grpc.unary_unary_rpc_method_handler(self._who),
            "Follow": grpc.unary_stream_rpc_method_handler(self._follow),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        self.port = self._server.add_insecure_port(address)
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        self._server.start()

    def _who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.seen += 1
        if self._behave is not None:
            self._behave(context)
        return self.name.encode()

    def _follow(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A message every 10 ms until the caller or the server goes."""
        while context.is_active() and not self._stopping.wait(0.01):
            yield self.name.encode()

    def stop(self) -> None:
        self._stopping.set()
        self._server.stop(None).wait(DEADLINE)


@contextlib.contextmanager
def servers(*names: str) -> Iterator[dict[str, Server]]:
    """As many servers as names, stopped at the end."""
    running = {name: Server(name) for name in names}
    try:
        yield running
    finally:
        for server in running.values():
            server.stop()


def unary(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The unary method of a channel."""
    return channel.unary_unary(METHOD)


def streaming(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The method of a channel that answers with a stream."""
    return channel.unary_stream(STREAM)


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
