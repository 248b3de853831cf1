"""Keys under `service/` in etcd, read once and then watched (scheme etcd), as etcd's Go package naming/endpoints writes them.

A value is JSON with `Addr`, `host:port`, and `Metadata`, of which `zone` and `weight` are used. Keys of other services with a similar
name are never read.
"""

import ipaddress
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from queue import Empty as NothingArrived
from queue import SimpleQueue
from typing import Any, ClassVar

import grpc

from ..config import Config, Empty, Etcd
from ..errors import SourceError, TargetError
from ..snapshot import Endpoint, Snapshot, canonical_address, parse_authority
from ..target import Target
from .etcd_client import Entry, EtcdClient, EtcdError, prefix_end, validate


class EtcdSource:
    """Every `watch` opens a new connection, after a failure to the next member."""

    knows_health: ClassVar[bool] = True
    empty: ClassVar[Empty] = Empty("hold", 10.0)
    registry = ""

    def __init__(self, target: Target, settings: Etcd) -> None:
        validate(settings)
        self.registry = ",".join(sorted(settings.endpoints))
        self._prefix = f"{target.name}/".encode()
        self._settings = settings
        self._member = 0
        self._closed = False
        self._client: EtcdClient | None = None

    def watch(self) -> Iterator[Snapshot]:
        if self._closed:
            return
        try:
            client = EtcdClient(self._settings, self._member)
        except TargetError as error:  # a certificate file has been deleted since the start
            raise SourceError(str(error)) from None
        self._client = client  # before `_closed` is read again, and `close` reads it after: one of the two closes the client
        try:
            if not self._closed:
                yield from self._follow(client)
        except EtcdError:
            self._member += 1
            if not self._closed:
                raise
        finally:
            client.close()

    def close(self) -> None:
        self._closed = True
        if (client := self._client) is not None:
            client.close()

    def _follow(self, client: EtcdClient) -> Iterator[Snapshot]:
        client.authenticate()
        end = prefix_end(self._prefix)
        revision, entries = client.range(self._prefix, end)
        listing = _Listing()
        yield listing.apply(entries)
        for changes in Watch(client, self._prefix, end, revision, entries):
            yield listing.apply(changes)


class _Listing:
    """What is listed below a prefix. A change costs what has changed, not what there is, as long as nothing there is wrong."""

    def __init__(self) -> None:
        self._found: dict[bytes, Endpoint | str] = {}
        self._places: set[tuple[str, int]] = set()
        self._snapshot = Snapshot()

    def apply(self, changes: Iterable[Entry]) -> Snapshot:
        gone: set[Endpoint] = set()
        came: set[Endpoint] = set()
        right = not self._snapshot.problems
        for change in changes:
            old = self._found.get(change.key)
            if isinstance(old, Endpoint):
                (came.discard if old in came else gone.add)(old)
                self._places.discard(old[:2])
            if change.value is None:
                self._found.pop(change.key, None)
                continue
            new = self._found[change.key] = decode(change.key, change.value)
            if isinstance(new, str) or new[:2] in self._places:
                right = False
            else:
                came.add(new)
                self._places.add(new[:2])
        if not right:
            found = self._found.values()
            self._snapshot = Snapshot.of(
                (item for item in found if not isinstance(item, str)), (item for item in found if isinstance(item, str))
            )
            self._places = {endpoint[:2] for endpoint in self._snapshot.endpoints}
        elif gone or came:
            self._snapshot = Snapshot(self._snapshot.endpoints - gone | came)
        return self._snapshot


class Watch:
    """What changes in a range after it was read: iterate to get the changes of one or more revisions at a time, complete
    transactions together, or an empty list as a sign of life.

    A watch that was silent for `keepalive` seconds is compared with the range: it is alive if it has delivered everything there, or
    does so within `timeout` seconds. Otherwise it counts as failed, even if its connection is open. Ends with EtcdError. To end it
    from another thread, close the client.
    """

    def __init__(self, client: EtcdClient, key: bytes, range_end: bytes, revision: int, entries: Iterable[Entry]) -> None:
        self._client = client
        self._range = key, range_end
        self._revision = revision
        self._keys = {entry.key for entry in entries}
        self._arrived: SimpleQueue[list[Entry] | EtcdError] = SimpleQueue()
        self._stream = client.watch(key, range_end, revision, self._arrived.put)

    def __iter__(self) -> Iterator[list[Entry]]:
        settings = self._client.settings
        try:
            while True:
                try:
                    changes = self._take(settings.keepalive)
                except NothingArrived:
                    changes = self._compare(time.monotonic() + settings.timeout)
                for change in changes:
                    self._revision = max(self._revision, change.revision)
                    (self._keys.discard if change.value is None else self._keys.add)(change.key)
                yield changes
        finally:
            self._stream.cancel()

    def _take(self, timeout: float) -> list[Entry]:
        """All that has arrived. Raises NothingArrived if nothing does in time."""
        changes = self._arrived.get(timeout=max(0.0, timeout))
        if isinstance(changes, EtcdError):
            raise changes
        while not self._arrived.empty():
            more = self._arrived.get()
            if isinstance(more, EtcdError):
                self._arrived.put(more)  # after the changes before it
                break
            changes += more
        return changes

    def _compare(self, deadline: float) -> list[Entry]:
        settings = self._client.settings
        silent = EtcdError(f"etcd at {self._client.address} has been silent for {settings.keepalive + settings.timeout:g} s")
        try:
            if not self._client.changed(*self._range, self._revision, len(self._keys)):
                return []
        except EtcdError as error:
            if self._arrived.empty():
                raise silent if error.code is grpc.StatusCode.DEADLINE_EXCEEDED else error from None
        try:
            return self._take(deadline - time.monotonic())
        except NothingArrived:
            raise silent from None


def decode(key: bytes, value: bytes) -> Endpoint | str:
    """The endpoint in a key's value, or the reason why there is none.

    Field names are case-insensitive, as in Go's encoding/json; unknown fields are ignored.
    """
    name = key.decode(errors="replace")
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return f"key '{name}' is left out: its value is no JSON"
    fields = {field.lower(): item for field, item in content.items()} if isinstance(content, dict) else {}
    address = fields.get("addr")
    if not isinstance(address, str):
        return f"key '{name}' is left out: its value has no Addr"
    try:
        host, port = parse_authority(_text(address))
        host = canonical_address(host)
    except ValueError as error:
        return f"key '{name}' is left out: {error}"
    metadata = fields.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    return Endpoint(
        host,
        port,
        zone=_text(known["zone"]) if isinstance(known.get("zone"), str) else "",
        weight=_weight(known.get("weight", 1)),
        name=name,
        metadata=json.dumps(metadata, sort_keys=True) if metadata is not None else "",
    )


def encode(address: str, metadata: Mapping[str, Any]) -> bytes:
    """The value for a server, byte for byte as Go's package writes it.

    Raises TargetError for an address that other machines cannot reach, and for metadata that JSON cannot hold.
    """
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
    content = {"Op": 0, "Addr": address, "Metadata": metadata or None}  # Op 0 is Go's Add
    try:
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TargetError(f"Registrar(metadata=...) must hold what JSON can: {error}") from None


def _text(value: str) -> str:
    """With U+FFFD in place of lone surrogates, which JSON can represent and UTF-8 cannot, as in Go."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _weight(value: object) -> int:
    """An integer of 1 or more; anything else counts as 1, because a server with an invalid weight still serves."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else 1


def open_source(target: Target, config: Config) -> EtcdSource:
    """The source of an `etcd:///service` target; `config.etcd` applies. Raises TargetError for invalid settings."""
    return EtcdSource(target, config.etcd)
