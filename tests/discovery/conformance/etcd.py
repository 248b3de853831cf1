"""etcd, the real one: keys written as a server would register itself, through a proxy that can fail."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import pytest

from discovery.config import Config, Etcd
from discovery.sources.etcd_client import EtcdClient
from discovery.testing import EtcdServer, Proxy

from .registry import Place, Registry


class EtcdRegistry(Registry):
    """Two prefixes of its own on a shared etcd. Deleting is ending a lease, as it is for a server that goes."""

    name = "etcd"
    marks = (pytest.mark.etcd,)
    lacks: ClassVar = {}

    def __init__(self, server: EtcdServer) -> None:
        self._names = [uuid.uuid4().hex for _ in range(2)]
        host, _, port = server.address.partition(":")
        self._proxy = Proxy((host, int(port)))
        self._writer = EtcdClient(server.settings(timeout=20.0), 0)
        self._leases: dict[tuple[int, Place], int] = {}

    def target(self, service: int = 0) -> str:
        return f"etcd:///{self._names[service]}"

    def config(self, *, impatient: bool = False) -> Config:
        seconds = 0.5 if impatient else 10.0
        return replace(super().config(), etcd=Etcd((self._proxy.address,), timeout=max(1.0, seconds), keepalive=seconds))

    def set(self, wanted: Iterable[Place], service: int = 0) -> None:
        places = set(wanted)
        for place in sorted(places - {known for number, known in self._leases if number == service}):
            self._leases[service, place] = self._writer.grant(600)
            self._put(service, place)
        for number, place in [key for key in self._leases if key[0] == service and key[1] not in places]:
            self._writer.revoke(self._leases.pop((number, place)))

    def _put(self, service: int, place: Place) -> None:
        value = json.dumps({"Op": 0, "Addr": f"{place[0]}:{place[1]}", "Metadata": None})
        self._writer.put(f"{self._names[service]}/{place[0]}:{place[1]}".encode(), value.encode(), self._leases[service, place])

    def rewrite(self) -> None:
        for service, place in self._leases:
            self._put(service, place)

    def spoil(self) -> str:
        self._writer.put(f"{self._names[0]}/bad".encode(), b"{", 0)
        return f"{self._names[0]}/bad"

    def down(self) -> None:
        self._proxy.refuse()

    def up(self) -> None:
        self._proxy.mend()

    def hang(self) -> None:
        self._proxy.silence()

    def thaw(self) -> None:
        self._proxy.mend()

    def close(self) -> None:
        for service in range(2):
            self.set([], service)
        self._writer.close()
        self._proxy.close()
