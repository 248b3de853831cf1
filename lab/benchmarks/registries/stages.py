"""When a change passes which stage on its way through a client's process. The library has no such hooks, so its methods are wrapped
here; and gRPC's log tells when its connections come up."""

import datetime
import functools
import os
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from discovery.resolving.resolver import Resolver
from discovery.sources.etcd_client import EtcdClient
from discovery.sources.kubernetes import endpoint_slices
from discovery.wire import messages_pb2 as xds
from discovery.xds import ads_stream, control_plane, resources

VARIABLES = {"GRPC_VERBOSITY": "DEBUG", "GRPC_TRACE": "subchannel"}
"""The environment of a traced process."""

ARRIVED, YIELDED, PUBLISHED = "arrived in the client", "yielded by the source", "published to the control plane"
SENT, ACKNOWLEDGED = "laid out and sent to gRPC", "acknowledged by gRPC"
CONNECTING, READY = "connection begun", "connection ready"
BEGAN, ANSWERED = "its first call began", "its first call answered"

_ASSIGNMENT = resources.TYPE_PREFIX + resources.ASSIGNMENT
_LINE = r"^I\d{{4}} (\d+):(\d+):(\d+\.\d+) .*address=ipv4:{},.*connectivity state (CONNECTING|READY)"


def _is_new(plane: control_plane.ControlPlane, name: str, snapshot: object) -> bool:
    """Of a set that is published again with every status, the first time counts."""
    served = plane._served.get(name)
    return served is not None and served.published is not snapshot


class Trace:
    """Made before the first channel. `begin` before a change, `stages` after it: each stage's first moment, as time.monotonic()."""

    def __init__(self, new: str) -> None:
        self._seen: dict[str, float] = {}
        self._line = re.compile(_LINE.format(re.escape(new)), re.MULTILINE)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open for as long as the process lives
        os.dup2(self._log.fileno(), 2)
        self._before(endpoint_slices, "event", ARRIVED)
        self._before(Resolver, "_receive", YIELDED)
        self._before(control_plane.ControlPlane, "publish", PUBLISHED, _is_new)
        self._before(ads_stream.Stream, "subscribe", ACKNOWLEDGED, lambda _, request: request.type_url == _ASSIGNMENT)
        original, watch = ads_stream.Stream.answers, EtcdClient.watch

        def answers(stream: Any, served: Any) -> list[xds.DiscoveryResponse]:
            made = original(stream, served)
            if any(each.type_url == _ASSIGNMENT for each in made):
                self._mark(SENT)
            return made

        def watched(client: Any, key: bytes, end: bytes, revision: int, deliver: Callable[[Any], None]) -> Any:
            def delivered(changes: Any) -> None:
                self._mark(ARRIVED)
                deliver(changes)

            return watch(client, key, end, revision, delivered)

        mock.patch.object(ads_stream.Stream, "answers", answers).start()
        mock.patch.object(EtcdClient, "watch", watched).start()

    def begin(self) -> None:
        self._seen = {}
        self._log.seek(0)
        self._log.truncate()

    def stages(self) -> dict[str, float]:
        self._log.seek(0)
        midnight = datetime.datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        offset = time.monotonic() - time.time() + midnight
        for hour, minute, second, state in self._line.findall(self._log.read().decode(errors="replace")):
            moment = int(hour) * 3600 + int(minute) * 60 + float(second) + offset
            self._seen.setdefault(CONNECTING if state == "CONNECTING" else READY, moment)
        return self._seen

    def _mark(self, stage: str) -> None:
        self._seen.setdefault(stage, time.monotonic())

    def _before(self, owner: object, name: str, stage: str, counts: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def method(*arguments: Any) -> Any:
            if counts(*arguments):
                self._mark(stage)
            return original(*arguments)

        mock.patch.object(owner, name, method).start()
