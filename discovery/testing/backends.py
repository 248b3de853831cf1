"""Real gRPC servers on loopback that a test kills, freezes, drains, slows down, and restarts."""

import contextlib
import itertools
import json
import mmap
import os
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, overload

import grpc

from . import serving
from .serving import Controls, Served, Services


class Backend:
    """One server in this process, started by the constructor. `address` is `host:port`; port 0 takes a free one.

    It serves what `services` registers, besides WHO and FOLLOW, and grpc.health.v1 unless `health` is False.
    """

    def __init__(self, name: str, address: str = "127.0.0.1:0", services: Services | None = None, *, health: bool = True) -> None:
        self.name = name
        self.address = address
        self._services = services
        self._health = health
        self._controls = self._control()
        self._ending: threading.Thread | None = None
        self._begin()

    def _control(self) -> Controls:
        return Controls()

    def _begin(self) -> None:
        self._served: Served | None = Served(self.name, self.address, self._controls, self._services, self._health)
        self.address = f"{self.address.rpartition(':')[0]}:{self._served.port}"

    @property
    def port(self) -> int:
        """The port of `address`."""
        return int(self.address.rpartition(":")[2])

    @property
    def calls(self) -> int:
        """How many calls have reached it, those of health not counted; a restart does not reset it."""
        return self._controls.calls

    def slow(self, seconds: float) -> None:
        """From now on wait for so long before each call is handled; 0 ends it."""
        self._controls.delay = seconds

    def fail(self, code: grpc.StatusCode | None) -> None:
        """From now on answer each call with this status; None ends it."""
        self._controls.code = code.value[0] if code else 0

    def drain(self, wait: float = 0.5, grace: float = 5.0) -> None:
        """Say NOT_SERVING, after `wait` seconds refuse new calls, and end once the calls in flight have, after `grace` seconds at most.

        Returns at once; `join` waits for the end.
        """
        served, self._served = self._served, None
        if served is not None:
            self._ending = threading.Thread(target=served.drain, args=(wait, grace), name=f"drain {self.name}", daemon=True)
            self._ending.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until a drain has ended. Raises TimeoutError after `timeout` seconds."""
        if self._ending is not None:
            self._ending.join(timeout)
            if self._ending.is_alive():
                raise TimeoutError(f"backend '{self.name}' has not ended within {timeout:g} s")

    def stop(self) -> None:
        """End it now; calls in flight are canceled."""
        served, self._served = self._served, None
        if served is not None:
            served.stop()
        self.join()

    def close(self) -> None:
        """End it for good."""
        self.stop()

    def restart(self) -> None:
        """Start it again on the same address, which ends it first if it is running. Returns when it serves."""
        self.stop()
        self._begin()


class BackendProcess(Backend):
    """One server in a process of its own, which can also be killed and frozen. `services` must be importable from a module."""

    def __init__(
        self,
        name: str,
        address: str = "127.0.0.1:0",
        services: Services | None = None,
        *,
        health: bool = True,
        wait: bool = True,
    ) -> None:
        """With `wait=False` it returns while the process is starting; `ready` waits then."""
        self._reference = serving.reference(services)
        self._process: subprocess.Popen[bytes] | None = None
        self._answer: BinaryIO | None = None  # the port, once it serves
        self._wait = wait
        self._reserved, address = _reserve(address)
        super().__init__(name, address, services, health=health)

    def _control(self) -> Controls:
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115, every further process needs its descriptor
        self._shared.truncate(mmap.PAGESIZE)
        return Controls(self._shared.fileno())

    def _begin(self) -> None:
        read, write = os.pipe()
        self._answer = open(read, "rb")  # noqa: SIM115, closed by `ready`
        given = [self.name, self.address, self._shared.fileno(), write, self._reference, self._health]
        path = [each or os.getcwd() for each in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", serving.__file__, json.dumps(given)],
                stdin=subprocess.PIPE,
                pass_fds=(self._shared.fileno(), write),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,  # a Ctrl-C on the terminal is for the test
            )
        finally:
            os.close(write)
        if self._wait:
            self.ready()

    def ready(self) -> None:
        """Wait until it serves. Raises RuntimeError if its process has ended instead; its output says why."""
        answer, self._answer, self._wait = self._answer, None, True
        if answer is not None:
            with answer:
                serves = answer.read()
            if not serves:
                self.kill()
                raise RuntimeError(f"backend '{self.name}' did not start on {self.address}; its output says why")

    def kill(self) -> None:
        """End it by SIGKILL, as a lost node or the kernel's out-of-memory killer does."""
        self._send(signal.SIGKILL)
        self.join()

    def freeze(self) -> None:
        """Suspend it by SIGSTOP: connections stay, nothing is answered."""
        self._send(signal.SIGSTOP)
        if self._process is not None and self._process.poll() is None:
            os.waitpid(self._process.pid, os.WUNTRACED)  # until it is suspended: a moment later than the signal

    def thaw(self) -> None:
        """Resume it after `freeze`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def drain(self, wait: float = 0.5, grace: float = 5.0) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{json.dumps([wait, grace])}\n".encode())
                self._process.stdin.close()

    def join(self, timeout: float | None = None) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"backend '{self.name}' has not ended within {timeout:g} s") from None
            for pipe in (self._process.stdin, self._answer):
                if pipe is not None:
                    pipe.close()
            self._process = self._answer = None

    def stop(self) -> None:
        self.kill()

    def close(self) -> None:
        self.kill()
        self._shared.close()
        self._reserved.close()


@overload
def backends(
    count: int | Sequence[str] = 3, services: Services | None = None, *, health: bool = True, processes: Literal[True] = True
) -> contextlib.AbstractContextManager[list[BackendProcess]]: ...


@overload
def backends(
    count: int | Sequence[str] = 3, services: Services | None = None, *, health: bool = True, processes: bool
) -> contextlib.AbstractContextManager[list[Backend]]: ...


@contextlib.contextmanager
def backends(
    count: int | Sequence[str] = 3, services: Services | None = None, *, health: bool = True, processes: bool = True
) -> Iterator[Any]:
    """So many servers, or one for each name, ended with the block.

        with testing.backends(3) as servers, discovery.insecure_channel("manual:///greeter") as channel:
            discovery.Manual("greeter").set(server.address for server in servers)
            servers[0].kill()
            assert channel.unary_unary(testing.WHO)(b"", wait_for_ready=True) in (b"b", b"c")

    For servicers of your own, pass a function that registers them; the name tells the servers apart:

        def services(server: grpc.Server, name: str) -> None:
            greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(name), server)

    By default each server is a process, which starts in about half a second; they start together. Their `services` must be a
    function of a module that the process can import. With `processes=False` they run in this process, start within milliseconds,
    take any function, and cannot be killed or frozen. `health=False` leaves out grpc.health.v1. Raises RuntimeError if a server does not start.
    """
    names = list(itertools.islice(_names(), count)) if isinstance(count, int) else list(count)
    with contextlib.ExitStack() as stack:
        started: list[Backend] = []
        for name in names:
            if processes:
                started.append(BackendProcess(name, services=services, health=health, wait=False))
            else:
                started.append(Backend(name, services=services, health=health))
            stack.callback(started[-1].close)
        for each in started:
            if isinstance(each, BackendProcess):
                each.ready()
        yield started


def _reserve(address: str) -> tuple[socket.socket, str]:
    """A socket that is bound but does not listen, so that nobody is given the port of a server that is away; and its address."""
    host, _, port = address.rpartition(":")
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((host.strip("[]"), int(port)))
    except OSError:
        reserved.close()
        raise
    return reserved, f"{host}:{reserved.getsockname()[1]}"


def _names() -> Iterator[str]:
    """a, b, ..., z, a1, b1, ..."""
    for round_number in itertools.count():
        yield from (f"{letter}{round_number or ''}" for letter in string.ascii_lowercase)
