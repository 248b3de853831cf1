"""A stand-in for somebody else's xDS control plane: old-style names, one endpoint, on a TCP port of its own."""

from collections.abc import Iterator

import grpc

from discovery.snapshot import Endpoint, Snapshot, parse_authority
from discovery.wire import messages_pb2 as xds
from discovery.xds.control_plane import _daemon_threads
from discovery.xds.resources import ASSIGNMENT, CLUSTER, LISTENER, TYPE_PREFIX, TargetResources, pack
from discovery.xds.service_config import ServiceConfig


class ExternalPlane:
    """Answers every subscription once; `asked` lists the listeners that were asked for."""

    def __init__(self, name: str, address: str) -> None:
        self.asked: list[str] = []
        resources = TargetResources(name, "", ServiceConfig())
        resources.update(Snapshot.of([Endpoint(*parse_authority(address))]))
        listener = xds.Listener.FromString(resources.view.listener.body.value)
        listener.name = name
        manager = xds.HttpConnectionManager.FromString(listener.api_listener.api_listener.value)
        for route in manager.route_config.virtual_hosts[0].routes:
            route.route.weighted_clusters.clusters[0].name = "cluster"
        listener.api_listener.api_listener.value = manager.SerializeToString()
        cluster = xds.Cluster(
            name="cluster",
            type=xds.DISCOVERY_TYPE_EDS,
            eds_cluster_config=xds.EdsClusterConfig(
                eds_config=xds.ConfigSource(ads=xds.AggregatedConfigSource()), service_name="cluster"
            ),
        )
        assignment = xds.ClusterLoadAssignment.FromString(next(iter(resources.view.assignments.values())).body.value)
        assignment.cluster_name = "cluster"
        self._bodies = {
            LISTENER: pack(LISTENER, listener),
            CLUSTER: pack(CLUSTER, cluster),
            ASSIGNMENT: pack(ASSIGNMENT, assignment),
        }
        self._server = grpc.server(_daemon_threads(), options=(("grpc.so_reuseport", 0),))
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=xds.DiscoveryRequest.FromString,
            response_serializer=xds.DiscoveryResponse.SerializeToString,
        )
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"StreamAggregatedResources": handler}),)
        )
        self.uri = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _serve(self, requests: Iterator[xds.DiscoveryRequest], context: grpc.ServicerContext) -> Iterator[xds.DiscoveryResponse]:
        answered: set[str] = set()
        for request in requests:
            kind = request.type_url.removeprefix(TYPE_PREFIX)
            if kind == LISTENER and request.resource_names and request.resource_names[0] not in self.asked:
                self.asked.extend(request.resource_names)
            if kind in self._bodies and kind not in answered and request.resource_names:
                answered.add(kind)
                body: xds.Any = self._bodies[kind]
                yield xds.DiscoveryResponse(version_info="1", resources=[body], type_url=request.type_url, nonce="1")
