"""One stream of the aggregated discovery service: requests in, due responses out, by the State-of-the-World variant of the protocol.

A stream is subscribed to full names of resources; a response has every one of them that is not sent yet in its present version.
"""

import contextlib
import queue
from collections import defaultdict
from collections.abc import Mapping

import grpc

from ..wire import messages_pb2 as xds
from .resources import ASSIGNMENT, CLUSTER, LISTENER, TYPE_PREFIX, Resource, TargetResources


class Stream:
    """The subscriptions of one stream, and what it was sent. Its owner holds the control plane's guard for `subscribe` and `answers`."""

    def __init__(self, server: grpc.Server) -> None:
        self.server = server
        self.targets: frozenset[str] = frozenset()
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ended = False
        self._sent: dict[str, dict[str, int]] = defaultdict(dict)  # type -> full name -> version, 0 for not yet
        self._nonce = 0

    def wake(self) -> None:
        """Something may have to be sent."""
        self._wakes.put(True)

    def end(self) -> None:
        self._ended = True
        self._wakes.put(False)

    def wait(self) -> bool:
        """Block until woken; False at the end. Several wakes count as one."""
        self._wakes.get()
        with contextlib.suppress(queue.Empty):
            while True:
                self._wakes.get_nowait()
        return not self._ended

    def subscribe(self, request: xds.DiscoveryRequest) -> bool:
        """Apply the names of a request; returns whether one is new in it. Such a one is answered again, whatever was sent before: gRPC
        may unsubscribe and subscribe again between two of our answers, and has then dropped what it had."""
        known = self._sent[request.type_url]
        self._sent[request.type_url] = {name: known.get(name, 0) for name in request.resource_names}
        self.targets = frozenset(target_of(name) for names in self._sent.values() for name in names)
        return 0 in self._sent[request.type_url].values()

    def answers(self, served: Mapping[str, TargetResources]) -> list[xds.DiscoveryResponse]:
        """Routes before endpoints, so that a part is removed from the route before it becomes empty."""
        views = {name: each.view for name, each in served.items()}

        def find(full_name: str) -> Resource | None:
            view = views.get(target_of(full_name))
            return view.find(full_name) if view is not None else None

        responses = []
        for kind in (LISTENER, CLUSTER, ASSIGNMENT):
            type_url = TYPE_PREFIX + kind
            sent = self._sent.get(type_url, {})
            found = {name: resource for name in sent if (resource := find(name)) is not None}
            changed = {name: resource for name, resource in found.items() if resource.version != sent[name]}
            if not changed:
                continue
            if kind is not ASSIGNMENT:
                # A Listener or Cluster that is missing in an answer counts as deleted (xDS protocol, Deleting resources).
                changed = found
            sent |= {name: resource.version for name, resource in changed.items()}
            self._nonce += 1
            responses.append(
                xds.DiscoveryResponse(
                    version_info=str(max(resource.version for resource in changed.values())),
                    # Created again, because another copy of this library has its own message classes.
                    resources=[xds.Any(type_url=each.body.type_url, value=each.body.value) for each in changed.values()],
                    type_url=type_url,
                    nonce=str(self._nonce),
                )
            )
        return responses


def target_of(full_name: str) -> str:
    """`xdstp://authority/kind/target[/part]` -> target; any other name belongs to no target."""
    pieces = full_name.split("/")
    return pieces[4] if len(pieces) > 4 else ""
