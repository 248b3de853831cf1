"""Snapshots in, xDS resources out: the Listener, Clusters and ClusterLoadAssignments of one target.

A Listener contains the routes: retry policies, and the clusters over which a set is split, weighted by their endpoints. Unchanged
resources keep their version, so that only changes are sent and rebuilt.
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from ..balancing import zones
from ..balancing.sharding import Parts, part_count
from ..config import Outliers
from ..snapshot import Endpoint, Snapshot
from ..wire import messages_pb2 as xds
from .service_config import Retry, ServiceConfig

AUTHORITY = "grpc-discovery"
"""The name of our control plane in the bootstrap and in every resource name (gRFC A47)."""

LISTENER = "envoy.config.listener.v3.Listener"
CLUSTER = "envoy.config.cluster.v3.Cluster"
ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
_CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"

TYPE_PREFIX = "type.googleapis.com/"

_versions = itertools.count(2)
"""Versions are shared by all targets: a stream that outlives a target must not confuse a later target's resource with it."""

TOLERANCE = 0.1
"""How inaccurate a part's weight in the route may be. A new route affects every part, so small differences are ignored."""

UNLIMITED = 2**32 - 1
"""gRPC's default circuit breaker rejects the 1,025th concurrent RPC of a cluster; limits are left to servers."""


def resource_name(kind: str, name: str) -> str:
    """The full name of a resource of ours (xdstp URI, xRFC TP1)."""
    return f"xdstp://{AUTHORITY}/{kind}/{name}"


def pack(kind: str, message: Message) -> xds.Any:
    """One of our messages under Envoy's type URL, serialized deterministically."""
    return xds.Any(type_url=TYPE_PREFIX + kind, value=message.SerializeToString(deterministic=True))


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it is sent; the version rises with every change of this resource."""

    version: int
    body: xds.Any


@dataclass(frozen=True, slots=True)
class View:
    """The resources of one target at one moment. `find` may be called on any thread.

    assignments: one for each part; those of the route's parts hold endpoints, unless the whole set is empty.
    """

    prefix: str
    outliers: Outliers | None
    listener: Resource
    assignments: Mapping[str, Resource] = field(default_factory=dict)
    routed: tuple[str, ...] = ()
    """The assignments of the parts in the route."""
    stand_ins: dict[str, Resource] = field(default_factory=dict, compare=False)

    def find(self, full_name: str) -> Resource | None:
        """The resource of this name; None for an assignment before the first set, so that calls wait for it.

        Listener and Cluster exist from the start: gRPC takes one that is missing for 15 s for deleted, and does not wake waiting
        calls when it comes after that. A part of an earlier number of parts holds the endpoints of one of the present parts: a call
        that has waited since then was routed to it for good.
        """
        kind = full_name.split("/")[3]
        if kind == LISTENER:
            return self.listener
        if kind == CLUSTER:
            return cluster(full_name, self.outliers)
        found = self.assignments.get(full_name)
        if found is None and self.assignments and full_name.startswith(self.prefix):
            names = self.routed or tuple(self.assignments)
            part = full_name.rpartition("-")[2]
            chosen = self.assignments[names[int(part) % len(names) if part.isdigit() else 0]]
            found = self.stand_ins.get(full_name) or self.stand_ins.setdefault(full_name, _renamed(chosen, full_name))
        return found


class TargetResources:
    """Lays out the sets of one target as resources. Not thread-safe; `view` is a value that is replaced."""

    def __init__(
        self, name: str, own_zone: str, service_config: ServiceConfig, outliers: Outliers | None = None, own_node: str = ""
    ) -> None:
        self._name = name
        self._own_zone = own_zone
        self._own_node = own_node
        self._service_config = service_config
        self._count = 1
        self._parts = Parts()
        self._usable: frozenset[Endpoint] = frozenset()
        self._preferred = zones.Preference()
        self._assignments: dict[str, Resource] = {}
        self._weights: dict[int, int] = {}  # of the parts that hold anything of the first priority
        self._routed: dict[int, int] = {}  # what the listener says
        self._laid_out = False
        self._filters: tuple[xds.HttpFilter, ...] = ()
        self.view = View(resource_name(ASSIGNMENT, f"{name}/"), outliers, self._listener())

    def update(self, snapshot: Snapshot) -> bool:
        """Apply a snapshot; returns whether anything is different on the wire."""
        usable = zones.usable(snapshot.endpoints)
        preferred = zones.preference(usable, self._own_zone, self._own_node)
        count = part_count(len(usable), self._count)
        if count != self._count or preferred != self._preferred or not self._laid_out:
            if count != self._count:
                self._assignments, self._weights, self._routed = {}, {}, {}
            self._count, self._preferred, self._laid_out = count, preferred, True
            self._parts.deal(usable, count)
            changed = set(range(count))
        else:
            changed = self._parts.change(usable - self._usable, self._usable - usable)
        self._usable = usable
        assigned = self._assign(changed)
        listener = self.view.listener
        if not _alike(self._weights, self._routed):
            self._routed = dict(self._weights)
            listener = self._listener()
        if assigned or listener is not self.view.listener:
            routed = tuple(resource_name(ASSIGNMENT, self._part_name(part)) for part in sorted(self._weights))
            self.view = replace(self.view, listener=listener, assignments=dict(self._assignments), routed=routed, stand_ins={})
            return True
        return False

    def filter(self, filters: tuple[xds.HttpFilter, ...]) -> None:
        """Replace the HTTP filters before the router (gRFC A39); the Listener has a new version, even if nothing is different."""
        self._filters = filters
        self.view = replace(self.view, listener=Resource(next(_versions), self._listener().body))

    def _assign(self, changed: Iterable[int]) -> bool:
        found = False
        for part in sorted(changed):
            full_name = resource_name(ASSIGNMENT, self._part_name(part))
            weight, assignment = self._assignment(full_name, self._parts.held[part])
            if weight:
                self._weights[part] = weight
            else:
                self._weights.pop(part, None)
                # An empty part is removed from the route; if it became empty before gRPC has dropped it, its RPCs would fail.
                if self._usable:
                    continue
            body = pack(ASSIGNMENT, assignment)
            known = self._assignments.get(full_name)
            if known is None or known.body.value != body.value:
                self._assignments[full_name] = Resource(next(_versions), body)
                found = True
        return found

    def _assignment(self, full_name: str, endpoints: Iterable[Endpoint]) -> tuple[int, xds.ClusterLoadAssignment]:
        """The message and its weight: the endpoints of the first priority, each by its own weight."""
        groups: dict[tuple[int, int], list[Endpoint]] = defaultdict(list)
        for endpoint in endpoints:
            groups[self._preferred.rank(endpoint), endpoint.weight].append(endpoint)
        message = xds.ClusterLoadAssignment(cluster_name=full_name)
        first_priority = sum(share * len(group) for (rank, share), group in groups.items() if rank == 0)
        ranks = sorted({rank for rank, _ in groups})
        for (rank, share), group in sorted(groups.items()):
            # round_robin ignores weights of endpoints, but not of localities: endpoints of equal weight form a locality.
            locality = message.endpoints.add(
                locality=xds.Locality(zone=f"{self._preferred.names[rank]}-{share}"),
                load_balancing_weight=xds.UInt32Value(value=share * len(group)),  # gRPC drops a locality without a weight
                priority=ranks.index(rank),  # a gap in priorities is rejected
            )
            for endpoint in sorted(group):
                socket = xds.SocketAddress(address=endpoint.address, port_value=endpoint.port)
                address = xds.EndpointAddress(address=xds.Address(socket_address=socket))
                locality.lb_endpoints.add(endpoint=address, health_status=xds.HEALTH_STATUS_HEALTHY)
        return first_priority, message

    def _listener(self) -> Resource:
        # The weight of a single part means nothing; with a constant one, a change of a small set leaves the Listener as it is.
        weights = self._weights if len(self._weights) > 1 else dict.fromkeys(self._weights or (0,), 1)
        divisor = math.ceil(sum(weights.values()) / UNLIMITED)  # the sum must fit 32 bits (gRFC A28)
        clusters = xds.WeightedCluster(
            clusters=[
                xds.ClusterWeight(
                    name=resource_name(CLUSTER, self._part_name(part)), weight=xds.UInt32Value(value=max(1, weight // divisor))
                )
                for part, weight in sorted(weights.items())
            ]
        )
        host = xds.VirtualHost(name=self._name, domains=["*"], routes=_routes(self._service_config, clusters))
        manager = xds.HttpConnectionManager(
            route_config=xds.RouteConfiguration(name=self._name, virtual_hosts=[host]),
            http_filters=[*self._filters, xds.HttpFilter(name="router", typed_config=xds.Any(type_url=TYPE_PREFIX + _ROUTER))],
        )
        listener = xds.Listener(
            name=resource_name(LISTENER, self._name),
            api_listener=xds.ApiListener(api_listener=pack(_CONNECTION_MANAGER, manager)),
        )
        body = pack(LISTENER, listener)
        known = self.view.listener if self._laid_out else None
        return known if known is not None and known.body.value == body.value else Resource(next(_versions), body)

    def _part_name(self, part: int) -> str:
        return f"{self._name}/{self._count}-{part}"


def _renamed(resource: Resource, full_name: str) -> Resource:
    message = xds.ClusterLoadAssignment.FromString(resource.body.value)
    message.cluster_name = full_name
    return Resource(resource.version, pack(ASSIGNMENT, message))


def _alike(weights: Mapping[int, int], routed: Mapping[int, int]) -> bool:
    """Whether a route need not be sent anew."""
    return weights.keys() == routed.keys() and (
        len(weights) == 1 or all(abs(weight - routed[part]) <= TOLERANCE * routed[part] for part, weight in weights.items())
    )


def _routes(service_config: ServiceConfig, clusters: xds.WeightedCluster) -> list[xds.Route]:
    """In the order in which gRPC tries them; the last one matches every call. No timeouts: gRPC fires them 1.67 s early."""
    routes = []
    for rule in service_config.rules:
        whole = bool(rule.path) and not rule.path.endswith("/")
        match = xds.RouteMatch(path=rule.path) if whole else xds.RouteMatch(prefix=rule.path)
        retry = _retry_policy(rule.retry) if rule.retry else None
        routes.append(xds.Route(match=match, route=xds.RouteAction(weighted_clusters=clusters, retry_policy=retry)))
    return [*routes, xds.Route(match=xds.RouteMatch(prefix=""), route=xds.RouteAction(weighted_clusters=clusters))]


def _retry_policy(retry: Retry) -> xds.RetryPolicy:
    return xds.RetryPolicy(
        retry_on=",".join(retry.on),
        num_retries=xds.UInt32Value(value=retry.attempts - 1),
        retry_back_off=xds.RetryBackOff(
            base_interval=_duration(retry.initial_backoff), max_interval=_duration(retry.max_backoff)
        ),
    )


@functools.lru_cache(maxsize=4096)
def cluster(full_name: str, outliers: Outliers | None) -> Resource:
    """The Cluster of a part. It never changes, so it exists for every one of our names that gRPC requests."""
    assignment = full_name.replace(CLUSTER, ASSIGNMENT)
    message = xds.Cluster(
        name=full_name,
        type=xds.DISCOVERY_TYPE_EDS,
        eds_cluster_config=xds.EdsClusterConfig(
            eds_config=xds.ConfigSource(ads=xds.AggregatedConfigSource()), service_name=assignment
        ),
        lb_policy=xds.LB_POLICY_ROUND_ROBIN,
        circuit_breakers=xds.CircuitBreakers(thresholds=[xds.Thresholds(max_requests=xds.UInt32Value(value=UNLIMITED))]),
        outlier_detection=_outlier_detection(outliers) if outliers else None,
    )
    return Resource(1, pack(CLUSTER, message))


def _outlier_detection(outliers: Outliers) -> xds.OutlierDetection:
    """By the percentage of failed calls. The success rate would compare servers with each other and eject one that is merely below the
    others; gRPC ignores Envoy's count of consecutive failures (consecutive_5xx)."""
    return xds.OutlierDetection(
        interval=_duration(outliers.interval),
        base_ejection_time=_duration(outliers.ejection),
        max_ejection_time=_duration(outliers.max_ejection),
        max_ejection_percent=xds.UInt32Value(value=outliers.max_percent),
        enforcing_success_rate=xds.UInt32Value(value=0),
        failure_percentage_threshold=xds.UInt32Value(value=outliers.threshold),
        enforcing_failure_percentage=xds.UInt32Value(value=100),
        failure_percentage_minimum_hosts=xds.UInt32Value(value=2),
        failure_percentage_request_volume=xds.UInt32Value(value=outliers.min_requests),
    )


def _duration(seconds: float) -> xds.Duration:
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return xds.Duration(seconds=whole, nanos=microseconds * 1000)
