"""One gRPC server of a test, and the program of a process that runs one: it is started by its path, so it imports nothing of ours."""

import importlib
import json
import mmap
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

WHO = "/test.Echo/Who"
"""The unary method of every backend without `services`: it answers any bytes with the backend's name."""

FOLLOW = "/test.Echo/Follow"
"""Its streaming method: the name every 10 ms until the caller or the backend goes."""

Services = Callable[[grpc.Server, str], None]
"""Registers servicers on a server that has not started yet; the text is the backend's name."""

_HEALTH = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse
_FACTORIES: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    # (request streaming, response streaming): (attribute of a handler, its factory)
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class Controls:
    """Three numbers that a test and a backend's process share, so that they can be read even while it is frozen or dead."""

    _CALLS, _DELAY, _CODE = (0, "q"), (8, "d"), (16, "q")

    def __init__(self, descriptor: int = -1) -> None:
        self._memory = mmap.mmap(descriptor, 24)
        self._lock = threading.Lock()

    def _get(self, place: tuple[int, str]) -> Any:
        return struct.unpack_from(place[1], self._memory, place[0])[0]

    def _set(self, place: tuple[int, str], value: float) -> None:
        struct.pack_into(place[1], self._memory, place[0], value)

    @property
    def calls(self) -> int:
        return int(self._get(self._CALLS))

    def count(self) -> None:
        with self._lock:
            self._set(self._CALLS, self.calls + 1)

    @property
    def delay(self) -> float:
        return float(self._get(self._DELAY))

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._set(self._DELAY, seconds)

    @property
    def code(self) -> int:
        return int(self._get(self._CODE))

    @code.setter
    def code(self, code: int) -> None:
        self._set(self._CODE, code)


class Served(grpc.ServerInterceptor):
    """One running grpc.Server: the test's services or Who and Follow, its health, and what `Controls` says of its calls."""

    def __init__(
        self, name: str, address: str, controls: Controls, services: Services | None, health: bool, reuse_port: bool = False
    ) -> None:
        self._name = name.encode()
        self._controls = controls
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._health = _SERVING
        self._server = grpc.server(ThreadPoolExecutor(64), interceptors=[self], options=(("grpc.so_reuseport", int(reuse_port)),))
        if services is not None:
            services(self._server, name)
        echo: dict[str, Any] = {
            "Who": grpc.unary_unary_rpc_method_handler(lambda request, context: self._name),
            "Follow": grpc.unary_stream_rpc_method_handler(self._follow),
        }
        checks: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(lambda request, context: self._health),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        handlers = [grpc.method_handlers_generic_handler("test.Echo", echo)]
        if health:
            handlers.append(grpc.method_handlers_generic_handler(_HEALTH, checks))
        self._server.add_generic_rpc_handlers(handlers)
        self.port = self._server.add_insecure_port(address)
        self._server.start()

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        """Count, delay, and fail every call but those of health."""
        handler = continuation(details)
        if handler is None or details.method.startswith(f"/{_HEALTH}/"):
            return handler
        attribute, factory = _FACTORIES[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, attribute)

        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            self._controls.count()
            if delay := self._controls.delay:
                self._stopping.wait(delay)
            if code := self._controls.code:
                context.abort(next(each for each in grpc.StatusCode if each.value[0] == code), "as the test says")
            return inner(request, context)

        return factory(behave, handler.request_deserializer, handler.response_serializer)

    def _follow(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        while context.is_active() and not self._stopping.wait(0.01):
            yield self._name

    def _watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self._notify)
        told = b""
        while context.is_active() and not self._stopping.is_set():
            if told != self._health:
                told = self._health
                yield told
            with self._changed:
                while told == self._health and context.is_active() and not self._stopping.is_set():
                    self._changed.wait()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def drain(self, wait: float, grace: float) -> None:
        self._health = _NOT_SERVING
        self._notify()
        self._stopping.wait(wait)
        ended = self._server.stop(grace)
        self._stopping.set()
        self._notify()
        ended.wait()

    def stop(self) -> None:
        self._stopping.set()
        self._notify()
        self._server.stop(None).wait()


def reference(services: Services | None) -> str | None:
    """`module:name` of a function that another process can import. Raises ValueError."""
    if services is None:
        return None
    module, name = getattr(services, "__module__", ""), getattr(services, "__qualname__", "")
    if module in ("", "__main__") or not name.replace(".", "_").isidentifier():
        raise ValueError(
            f"{services!r} cannot be imported by a backend's process: take a function of a module, or backends(..., processes=False)"
        )
    return f"{module}:{name}"


def _main() -> None:
    """A backend's process: serves until its standard input ends, which it also does with the process that started it."""
    name, address, controls, told, reference, health = json.loads(sys.argv[1])
    services: Any = None
    if reference is not None:
        module, _, path = reference.partition(":")
        services = importlib.import_module(module)
        for attribute in path.split("."):
            services = getattr(services, attribute)
    served = Served(name, address, Controls(controls), services, health, reuse_port=True)
    with open(told, "wb") as parent:
        parent.write(str(served.port).encode())
    if line := sys.stdin.readline():
        served.drain(*json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    _main()
