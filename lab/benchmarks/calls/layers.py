"""What gRPC does for a call under xDS that it does not do for a list: each layer is switched off in turn.

A channel's resources are made by functions of discovery.xds.resources, which are replaced while the channel is opened. What they
write by field number is not in the library's messages, because the library does not need it.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import grpc

import discovery
from discovery.channel import open_target
from discovery.wire import messages_pb2 as xds
from discovery.xds import resources

from ..peers import method
from .paired import Side, Style

ROUND_ROBIN = [("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')]


def listed(addresses: Sequence[str]) -> Side:
    """gRPC's own list, the peer."""
    return lambda style: (style.grpc.insecure_channel(f"ipv4:{','.join(addresses)}", ROUND_ROBIN), lambda: None)


def discovered(addresses: Sequence[str], config: discovery.Config | None = None) -> Side:
    """A channel of this library, as it is."""

    def side(style: Style) -> tuple[Any, Callable[[], object]]:
        return style.discovery.insecure_channel(_manual(addresses), config=config), lambda: None

    return side


def unwrapped(
    addresses: Sequence[str], patched: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
) -> Side:
    """gRPC's channel on the same resources, without this library's check of each call. They are made while `patched`."""

    def side(style: Style) -> tuple[Any, Callable[[], object]]:
        with patched():
            uri, options, lease = open_target(_manual(addresses), None, None, None)
            assert lease is not None
            # The first answer to a synchronous channel on the same name makes every resource; while it is open, gRPC keeps them.
            first = grpc.insecure_channel(uri, options)
            method(first)(b"x", timeout=20, wait_for_ready=True)

        def after() -> None:
            first.close()
            lease.close()

        return style.grpc.insecure_channel(uri, options), after

    return side


def _manual(addresses: Sequence[str]) -> str:
    manual = discovery.Manual(uuid.uuid4().hex)
    manual.set(addresses)
    _kept.append(manual)
    return manual.target


_kept: list[discovery.Manual] = []


# ---- the layers ----


def _single_cluster() -> contextlib.AbstractContextManager[object]:
    """RouteAction.cluster (field 1) in the place of weighted_clusters."""
    original = resources._routes

    def routes(service_config: Any, clusters: xds.WeightedCluster) -> list[xds.Route]:
        [only] = clusters.clusters
        made = original(service_config, clusters)
        for route in made:
            route.route.ClearField("weighted_clusters")
            route.route.MergeFromString(_text(1, only.name))
        return made

    return mock.patch.object(resources, "_routes", routes)


def _cluster(change: Callable[[xds.Cluster], object]) -> contextlib.AbstractContextManager[object]:
    original = resources.cluster

    def cluster(full_name: str, *more: Any) -> resources.Resource:
        made = original(full_name, *more)
        message = xds.Cluster.FromString(made.body.value)
        change(message)
        return resources.Resource(made.version, resources.pack(resources.CLUSTER, message))

    return mock.patch.object(resources, "cluster", cluster)


def _no_circuit_breaker() -> contextlib.AbstractContextManager[object]:
    return _cluster(lambda message: message.ClearField("circuit_breakers"))


def _no_locality_policy() -> contextlib.AbstractContextManager[object]:
    """Cluster.load_balancing_policy (field 41) is round_robin itself, in the place of a policy that weighs localities first."""
    kind = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"
    policy = _bytes(4, _text(1, "round_robin") + _bytes(2, _text(1, f"type.googleapis.com/{kind}")))
    return _cluster(lambda message: message.MergeFromString(_bytes(41, _bytes(1, policy))))


@contextlib.contextmanager
def _all() -> Iterator[None]:
    with _single_cluster(), _no_circuit_breaker(), _no_locality_policy():
        yield


def _bytes(field: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


@dataclass(frozen=True)
class Layer:
    """What a channel with it and a channel without it differ in. everywhere: compared in more than one style of calls."""

    name: str
    present: Side
    absent: Side
    everywhere: bool = False


def every_layer(addresses: Sequence[str]) -> Iterator[Layer]:
    """Each is compared with all others in place, but the rest, which is what gRPC's own list does not have and xDS cannot leave out."""
    whole, base, least = discovered(addresses), unwrapped(addresses), unwrapped(addresses, _all)
    yield Layer("the check of this library", whole, base, everywhere=True)
    yield Layer("weighted clusters in the place of one", base, unwrapped(addresses, _single_cluster))
    yield Layer("the circuit breaker's own limit", base, unwrapped(addresses, _no_circuit_breaker))
    yield Layer("the weighing of localities", base, unwrapped(addresses, _no_locality_policy))
    yield Layer("these three together", base, least)
    yield Layer("the rest: route, cluster, priority, and circuit-breaker policies", least, listed(addresses), everywhere=True)
    ejecting = discovered(addresses, discovery.Config(outliers=discovery.Outliers()))
    yield Layer("outlier detection, which is off by itself", ejecting, whole)
    yield Layer("nothing: two lists, to judge the others by", listed(addresses), listed(addresses), everywhere=True)
