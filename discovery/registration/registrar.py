"""Registers a server in etcd while it runs, for `etcd:///service`; the writing side of sources/etcd.py.

Kubernetes and DNS list pods by themselves; with them, nothing needs to be registered.
"""

import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..config import Config
from ..errors import RegistrationError, TargetError
from ..resolving.backoff import BackoffTimer
from ..snapshot import canonical_address, parse_authority
from ..sources.etcd_client import EtcdClient, EtcdError
from ..target import parse

logger = logging.getLogger(__package__)


class Registrar:
    """One server's entry: a key below the service, attached to a lease that this process keeps alive.

    target: `etcd:///service`.   address: `host:port` at which others reach this server, such as the pod's address.
    id: the key's last part; a second process with the same ID replaces the first. Empty means the address.
    zone, weight, metadata: further data for clients; `metadata` may be any JSON object.
    ttl: seconds after which the entry of a server that died disappears.
    config: `config.etcd` says where etcd is, `config.backoff` how long to wait after an error.

    After `start`, the entry is restored whatever happens: a lost lease, a deleted key, a restarted etcd, a member that hangs.
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
        self.address = _reachable(address)
        config = config or Config()
        told = {**(metadata or {}), **({"zone": zone} if zone else {}), **({"weight": weight} if weight != 1 else {})}
        try:
            # As etcd's Go package naming/endpoints writes it; Op 0 is its Add.
            self._value = json.dumps(
                {"Op": 0, "Addr": self.address, "Metadata": told or None},
                separators=(",", ":"),
                ensure_ascii=False,
                allow_nan=False,
            ).encode()
        except (TypeError, ValueError) as error:
            raise TargetError(f"Registrar(metadata=...) must hold what JSON can: {error}") from None
        if "/" in id:
            raise TargetError(f"Registrar(id='{id}') must not hold '/'")
        self.key = f"{parsed.name}/{id or self.address}"
        self._settings = config.etcd
        self._backoff = config.backoff
        self._ttl = ttl
        self._lease = 0
        self._member = 0
        self._written = False  # whether the key was ours before, so that a different one means that we were replaced
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._changed = threading.Condition()  # guards the two below
        self._registered = False
        self._last_error = "etcd has not answered yet"
        self._thread = threading.Thread(target=self._run, name=f"discovery registrar {self.key}", daemon=True)
        EtcdClient(self._settings, 0).close()  # detect unusable files and addresses now

    @property
    def registered(self) -> bool:
        """Whether the entry exists, as far as is known; false also if another process has taken over the ID."""
        with self._changed:
            return self._registered

    @property
    def last_error(self) -> str:
        """Why the entry does not exist; empty while it does."""
        with self._changed:
            return self._last_error

    def start(self) -> None:
        """Start; called once. Returns immediately."""
        self._thread.start()

    def wait_until_registered(self, timeout: float) -> None:
        """Block until the entry exists. Raises RegistrationError with the reason after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._registered, timeout):
                raise RegistrationError(f"'{self.key}' is not registered after {timeout:g} s: {self._last_error}")

    def close(self) -> None:
        """Delete the entry and stop. Takes no longer than a request's timeout; if that fails, the lease expires."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(2 * self._settings.timeout)

    # ---- the registrar's thread ----

    def _run(self) -> None:
        backoff = BackoffTimer(self._backoff)
        while not self._closing.is_set():
            backoff.begin()
            self._with_client(self._hold)
            self._closing.wait(backoff.end())
        if self._lease:
            self._with_client(lambda client: client.revoke(self._lease))
        self._note(False, "it was taken away")

    def _with_client(self, work: Callable[[EtcdClient], None]) -> None:
        try:
            client = EtcdClient(self._settings, self._member)
            try:
                client.authenticate()
                work(client)
            finally:
                client.close()
        except (EtcdError, TargetError) as error:  # TargetError: a certificate file has been deleted since the start
            self._member += 1
            if str(error) != self.last_error:
                logger.warning("registration of '%s': %s", self.key, error)
            self._note(False, str(error))

    def _hold(self, client: EtcdClient) -> None:
        """Keep the entry until closed. Ends with EtcdError."""
        revision = self._write(client)
        watch = client.watch(self.key.encode(), b"", revision)
        broken: list[EtcdError] = []
        disturbed = threading.Event()

        def look() -> None:
            try:
                for changes in watch:
                    if changes and changes[-1].lease != self._lease:
                        disturbed.set()
                        self._wake.set()
            except EtcdError as error:
                broken.append(error)
                self._wake.set()

        looking = threading.Thread(target=look, name=f"discovery registrar watch {self.key}", daemon=True)
        looking.start()
        try:
            kept = time.monotonic()
            while not self._closing.is_set():
                self._wake.wait(max(0.0, kept + self._ttl / 3 - time.monotonic()))
                self._wake.clear()
                if broken:
                    raise broken[0]
                if self._closing.is_set():
                    return
                kept = time.monotonic()
                if disturbed.is_set() or not client.keep_alive(self._lease):
                    disturbed.clear()
                    self._write(client)
        finally:
            watch.cancel()

    def _write(self, client: EtcdClient) -> int:
        """Ensure a lease, and the key attached to it unless another process has taken over the key. Returns the revision."""
        if not self._lease or not client.keep_alive(self._lease):
            self._lease = client.grant(self._ttl)
        revision, entries = client.range(self.key.encode())
        if not entries or not self._written:
            revision = client.put(self.key.encode(), self._value, self._lease)
        elif entries[0].lease != self._lease:
            # Keep the other entry: two processes that each restore their own would alternate forever. Its deletion wakes this one.
            self._note(False, "another process has registered under the same id")
            logger.warning(
                "registration of '%s': another process has registered under the same id; waiting until its entry is gone",
                self.key,
            )
            return revision
        self._written = True
        self._note(True, "")
        return revision

    def _note(self, registered: bool, error: str) -> None:
        with self._changed:
            if registered and not self._registered:
                logger.info("registered as '%s' with %s", self.key, self.address)
            self._registered, self._last_error = registered, error
            self._changed.notify_all()


def _reachable(address: str) -> str:
    """The address itself. Raises TargetError for one that other machines cannot reach."""
    try:
        host, _ = parse_authority(address)
        parsed = ipaddress.ip_address(canonical_address(host))
    except ValueError as error:
        raise TargetError(
            f"the address '{address}' cannot be registered: {error}; write the IP address and port at which others reach "
            f"this server, such as its pod's: 10.1.2.3:50051"
        ) from None
    if parsed.is_unspecified or parsed.is_multicast:
        raise TargetError(
            f"the address '{address}' cannot be registered: others cannot reach {host}; write the IP address at which they "
            f"reach this server, such as its pod's (status.podIP of the downward API)"
        )
    return address
