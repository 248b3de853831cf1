"""Keys under `service/` in etcd, read once and then watched (scheme etcd), as etcd's Go package naming/endpoints writes them.

A value is JSON with `Addr`, `host:port`, and `Metadata`, of which `zone` and `weight` are used. Keys of other services with a similar
name are never read.
"""

import json
import threading
from collections.abc import Iterator
from typing import ClassVar

from ..config import Config, Empty, Etcd
from ..errors import SourceError, TargetError
from ..snapshot import Endpoint, Snapshot, parse_authority
from ..target import Target
from .etcd_client import EtcdClient, EtcdError, prefix_end


class EtcdSource:
    """Every `watch` opens a new connection, after a failure to the next member."""

    knows_health: ClassVar[bool] = True
    empty: ClassVar[Empty] = Empty("hold", 10.0)
    registry = ""

    def __init__(self, target: Target, settings: Etcd) -> None:
        self._prefix = f"{target.name}/".encode()
        self._settings = settings
        self._member = 0
        self._closed = False
        self._lock = threading.Lock()  # guards the two around it
        self._client: EtcdClient | None = None
        EtcdClient(settings, 0).close()  # files and addresses that cannot be used are found now

    def watch(self) -> Iterator[Snapshot]:
        with self._lock:
            if self._closed:
                return
            try:
                client = self._client = EtcdClient(self._settings, self._member)
            except TargetError as error:  # a certificate file has been deleted since the start
                raise SourceError(str(error)) from None
        try:
            yield from self._follow(client)
        except EtcdError as error:
            self._member += 1
            if not self._closed:
                raise SourceError(str(error)) from None
        finally:
            client.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()

    def _follow(self, client: EtcdClient) -> Iterator[Snapshot]:
        client.authenticate()
        end = prefix_end(self._prefix)
        revision, entries = client.range(self._prefix, end)
        listed = {entry.key: decode(entry.key, entry.value or b"") for entry in entries}
        yield (last := _snapshot(listed, None))
        for changes in client.watch(self._prefix, end, revision):
            for change in changes:
                if change.value is None:
                    listed.pop(change.key, None)
                else:
                    listed[change.key] = decode(change.key, change.value)
            yield (last := _snapshot(listed, last) if changes else last)


def _snapshot(listed: dict[bytes, Endpoint | str], last: Snapshot | None) -> Snapshot:
    problems = [item for item in listed.values() if isinstance(item, str)]
    return Snapshot.of((item for item in listed.values() if not isinstance(item, str)), problems, last=last)


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


def _text(value: str) -> str:
    """With U+FFFD in place of lone surrogates, which JSON can represent and UTF-8 cannot, as in Go."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _weight(value: object) -> int:
    """An integer of 1 or more; anything else counts as 1, because a server with an invalid weight still serves."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else 1


def open_source(target: Target, config: Config) -> EtcdSource:
    """The source of an `etcd:///service` target; `config.etcd` applies. Raises TargetError for invalid settings."""
    return EtcdSource(target, config.etcd)
