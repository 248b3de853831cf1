"""Registers a server in etcd while it runs, for `etcd:///service`; the writing side of sources/etcd.py.

Kubernetes and DNS list pods by themselves; with them, nothing needs to be registered.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Literal

from ..config import Config
from ..errors import RegistrationError, TargetError
from ..resolving.backoff import BackoffTimer
from ..sources.etcd import encode
from ..sources.etcd_client import Entry, EtcdClient, EtcdError, validate
from ..target import parse
from ..wire import messages_pb2 as wire

logger = logging.getLogger(__package__)

State = Literal["absent", "registered", "replaced", "closed"]


class Registrar:
    """One server's entry: a key below the service, attached to a lease that this process keeps alive.

    target: `etcd:///service`.   address: `host:port` at which others reach this server, such as the pod's address.
    id: the key's last part; a second process with the same ID replaces the first. Empty means the address.
    zone, weight, metadata: further data for clients; `metadata` may be any JSON object.
    ttl: seconds after which the entry of a server that died disappears.
    config: `config.etcd` says where etcd is, `config.backoff` how long to wait after an error.

    After `start`, the entry is restored whatever happens: a lost lease, a deleted key, a restarted etcd, a member that hangs, a
    process that cannot start a thread for a while. In a child process after a fork, a started registrar does nothing.

    | event                                       | absent          | registered     | replaced        |
    |---------------------------------------------|-----------------|----------------|-----------------|
    | key missing, or attached to an older lease  | put: registered | put            | put: registered |
    | key attached to our lease                   | registered      |                | registered      |
    | key attached to another process's lease     | put the first   | replaced       |                 |
    |                                             | time: registered|                |                 |
    | lease expired                               |                 | grant, put     | grant           |
    | error, or no answer in time                 | connect again   | absent         | absent          |
    | close                                       | closed          | revoke: closed | revoke: closed  |

    The key is read when a connection is new, when its watch reports a change by others, and whenever the lease was renewed.
    Raises TargetError for invalid arguments.
    """

    def __init__(
        self,
        target: str,
        address: str,
        *,
        id: str = "",
        zone: str = "",
        weight: int = 1,
        metadata: Mapping[str, Any] | None = None,
        ttl: int = 10,
        config: Config | None = None,
    ) -> None:
        parsed = parse(target)
        if parsed.scheme != "etcd":
            raise TargetError(f"target '{target}' takes no registration, only etcd does; write for example etcd:///greeter")
        if not 1 <= ttl <= 3600:
            raise TargetError(f"Registrar(ttl={ttl}) must be between 1 and 3600 seconds")
        self.address = address
        config = config or Config()
        told = {**(metadata or {}), **({"zone": zone} if zone else {}), **({"weight": weight} if weight != 1 else {})}
        self._value = encode(address, told)
        if "/" in id:
            raise TargetError(f"Registrar(id='{id}') must not hold '/'")
        self.key = f"{parsed.name}/{id or self.address}"
        self._settings = config.etcd
        self._backoff = config.backoff
        self._ttl = ttl
        self._member = 0
        self._lease = 0
        self._renewed = 0.0  # when the lease was granted or renewed last
        self._own: set[int] = set()  # leases that the key may be attached to: after a failed put, an older one of ours
        self._written = False  # whether the key was ours before, so that a different lease means that we were replaced
        # What follows is shared with other threads and signal handlers, without a lock: values are replaced as a whole.
        self._status: tuple[State, str] = ("absent", "etcd has not answered yet")
        self._thread: threading.Thread | None = None
        self._process = 0
        self._closing = False
        self._events: SimpleQueue[list[Entry] | int | EtcdError | None] = SimpleQueue()
        self._waiters: list[SimpleQueue[None]] = []
        validate(self._settings)

    @property
    def registered(self) -> bool:
        """Whether the entry exists, as far as is known; false also if another process has taken over the ID."""
        return self._status[0] == "registered" and not self._forked

    @property
    def last_error(self) -> str:
        """Why the entry does not exist; empty while it does."""
        return f"it belongs to process {self._process}, which has forked" if self._forked else self._status[1]

    def start(self) -> None:
        """Start, unless started or closed before. Returns immediately. If no thread can be started, RuntimeError: call it again."""
        if self._thread is None and not self._closing:
            thread = threading.Thread(target=self._run, name=f"discovery registrar {self.key}", daemon=True)
            self._process = os.getpid()
            thread.start()
            self._thread = thread

    def wait_until_registered(self, timeout: float) -> None:
        """Block until the entry exists. Raises RegistrationError with the reason after `timeout` seconds, or at once if closed."""
        self._wait_for("registered", timeout)
        if not self.registered:
            raise RegistrationError(f"'{self.key}' is not registered after {timeout:g} s: {self.last_error}")

    def close(self) -> None:
        """Delete the entry and stop. Takes no longer than a request's timeout; if that fails, the lease expires.

        May be called from a signal handler, and twice.
        """
        self._closing = True
        if self._thread is None:
            self._status = ("closed", "it was taken away")
        self._events.put(None)
        if self._thread is not threading.current_thread():
            self._wait_for("closed", 2 * self._settings.timeout)

    @property
    def _forked(self) -> bool:
        return self._thread is not None and self._process != os.getpid()

    def _wait_for(self, state: State, timeout: float) -> None:
        # Each caller waits on a queue of its own: a condition's lock may be held by the very code that a signal has interrupted.
        changed: SimpleQueue[None] = SimpleQueue()
        self._waiters.append(changed)
        end = time.monotonic() + timeout
        try:
            while self._status[0] not in (state, "closed") and not self._forked:
                changed.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            pass
        finally:
            self._waiters.remove(changed)

    # ---- the registrar's thread ----

    def _run(self) -> None:
        backoff = BackoffTimer(self._backoff)
        while not self._closing:
            backoff.begin()
            self._attempt(self._hold)
            self._next_event(backoff.end())
        if self._own:
            self._attempt(self._withdraw)
        self._note("closed", "it was taken away")

    def _attempt(self, work: Callable[[EtcdClient], None]) -> None:
        try:
            client = EtcdClient(self._settings, self._member)
            try:
                client.authenticate()
                work(client)
            finally:
                client.close()
        except Exception as error:  # not only EtcdError: gRPC, too, raises RuntimeError when it cannot start a thread
            self._member += 1
            known = isinstance(error, (EtcdError, TargetError))  # TargetError: a certificate file was deleted after the start
            self._note("absent", str(error) if known else f"{type(error).__name__}: {error}")
        self._events = SimpleQueue()  # without what the streams have left; `close` sets its flag before it uses the queue

    def _next_event(self, timeout: float) -> list[Entry] | int | EtcdError | None:
        """What a stream has delivered, or None: nothing in time, or `close`."""
        try:
            return None if self._closing else self._events.get(timeout=max(0.0, timeout))
        except Empty:
            return None

    def _hold(self, client: EtcdClient) -> None:
        """Keep the entry until closed. Ends with EtcdError."""
        if time.monotonic() - self._renewed > self._ttl / 3:
            self._lease = 0  # may be lost; if it is not, it expires without a key
        revision, _ = client.range(self.key.encode())
        client.watch(self.key.encode(), b"", revision, self._events.put)
        renewal = client.keep_alive(self._events.put)
        self._write(client)
        interval = min(self._ttl / 3, self._settings.keepalive)
        sent, due, asked = 0.0, time.monotonic(), False
        while not self._closing:
            event = self._next_event(due - time.monotonic())
            if isinstance(event, EtcdError):
                raise event
            if isinstance(event, int):
                due, asked = sent + interval, False
                self._renewed, self._lease = (sent, self._lease) if event > 0 else (0.0, 0)
                self._write(client)
            elif event:
                if event[-1].lease != self._lease:
                    self._write(client)
            elif asked and time.monotonic() >= due:
                raise EtcdError(f"etcd at {client.address}: no answer within {self._settings.timeout:g} s (LeaseKeepAlive)")
            elif time.monotonic() >= due:
                renewal.send(wire.LeaseKeepAliveRequest(id=self._lease))
                sent = time.monotonic()
                due, asked = sent + self._settings.timeout, True

    def _write(self, client: EtcdClient) -> None:
        """Ensure a lease, and the key attached to it unless another process has taken over the key."""
        _, entries = client.range(self.key.encode())
        if granted := not self._lease:
            self._lease, self._renewed = client.grant(self._ttl), time.monotonic()
            self._own.add(self._lease)
        attached = entries[0].lease if entries else 0
        if entries and attached not in self._own and self._written:
            # Keep the other entry: two processes that each restore their own would alternate forever. Its deletion wakes this one.
            self._note("replaced", "another process has registered under the same id")
            return
        if attached != self._lease:
            try:
                client.put(self.key.encode(), self._value, self._lease)
            except EtcdError as error:
                if granted or "lease not found" not in str(error):
                    raise
                self._lease = 0
                return self._write(client)
        self._own = {self._lease}
        self._written = True
        self._note("registered", "")

    def _withdraw(self, client: EtcdClient) -> None:
        for lease in sorted(self._own, key=lambda lease: lease != self._lease):
            with contextlib.suppress(EtcdError):
                client.revoke(lease)

    def _note(self, state: State, error: str) -> None:
        before, self._status = self._status, (state, error)
        for waiter in tuple(self._waiters):
            waiter.put(None)
        if self._closing:
            return  # a signal may have interrupted a thread that holds a log handler's lock, and wait for this one
        with contextlib.suppress(Exception):  # a log handler that fails
            if state == "registered" != before[0]:
                logger.info("registered as '%s' with %s", self.key, self.address)
            elif error not in ("", before[1]):
                logger.warning("registration of '%s': %s", self.key, error)
