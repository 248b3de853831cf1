"""The settings by section, each with its default and a description. Your own are in `own`."""

import socket
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from .. import discovery
from ..defaults import SERVER_NAME, TARGET
from .types import Bytes, Duration, Empty, Host, Names, Port, Positive, Rules, Target


class Section(BaseModel):
    """A group of settings; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServerKeepalive(Section):
    time: Positive = 60.0
    """The server pings a connection after this time without activity."""
    min_ping_interval: Positive = 10.0
    """The server closes connections of clients that ping more often (too_many_pings)."""


class Drain(Section):
    wait: Duration = 10.0
    """After SIGTERM, how long the server keeps serving so that clients can react to NOT_SERVING."""
    grace: Duration = 20.0
    """After that, how long calls in progress may take before they are canceled."""
    termination_grace: Positive | None = None
    """The pod's terminationGracePeriodSeconds, after which Kubernetes kills the pod; wait and grace are checked against it."""


class Server(Section):
    host: Host = "0.0.0.0"
    """The address to listen on; :: for IPv6 and IPv4."""
    port: Port = 50051
    """The port to listen on; 0 selects a free port, which is logged."""
    name: str = Field(default_factory=socket.gethostname)
    """The server's name in the metadata x-served-by of every call, and in telemetry; on Kubernetes the host name is the pod's name. Empty adds no metadata."""
    health_port: Port | None = None
    """A second port for health checks only, in plaintext, because the kubelet's probes cannot use TLS. none opens no port, 0 a free one."""
    reflection: bool | None = None
    """Whether to serve reflection and channelz, which grpcurl and similar tools use. none means true, but false with TLS__MODE=mtls."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1)] | None = 1000
    """The limit of concurrent calls; more are rejected with RESOURCE_EXHAUSTED. Health checks and reflection have limits of their own. none means no limit."""
    max_message_bytes: Bytes = 4 * 1024 * 1024
    """The maximum size of a request."""
    max_bytes_in_flight: Bytes = 16 * 1024 * 1024
    """The limit of the sizes of all requests in progress; further ones wait. It bounds the memory."""
    memory_limit: Annotated[int, Field(ge=1)] | None = None
    """The container's memory limit in bytes, set by the manifests; max_bytes_in_flight is checked against it."""
    max_connection_age: Positive | None = 300.0
    """The maximum age of a connection; clients then reconnect, and those without discovery resolve the name again. none means no limit."""
    max_connection_age_grace: Positive = 30.0
    """How long calls may continue on a connection that has reached its maximum age."""
    keepalive: ServerKeepalive = ServerKeepalive()
    drain: Drain = Drain()


class ClientKeepalive(Section):
    time: Positive = 30.0
    """The client pings a connection after this time without activity."""
    timeout: Positive = 10.0
    """The client closes a connection if a ping is not answered within this time; a hung server is detected after both together."""


class Retry(Section):
    attempts: Annotated[int, Field(ge=1, le=5)] = 3
    """The maximum number of attempts, the first included; 1 disables retries. Only methods with idempotency_level in the .proto file are retried."""


class Client(Section):
    target: Target = TARGET
    """Where the servers are: scheme:///name, see docs/configuration.md."""
    rate: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    """The load generator's calls per second."""
    timeout: Positive = 2.0
    """The timeout of a call, retries included."""
    stream_timeout: Positive = 3600.0
    """The timeout of a stream; SERVER__MAX_CONNECTION_AGE and its grace may end it earlier."""
    health_host: Host = "0.0.0.0"
    """The address of the load generator's own health server."""
    health_port: Port = 50052
    """The port of the load generator's own health server; 0 selects a free port."""
    outlier_detection: bool = False
    """Whether a server whose calls fail is ejected for a while (gRFC A50)."""
    keepalive: ClientKeepalive = ClientKeepalive()
    retry: Retry = Retry()


class Etcd(Section):
    endpoints: Annotated[Names, Field(min_length=1)] = ("127.0.0.1:2379",)
    """etcd's members, host:port or https://host:port, as JSON: ["etcd-0:2379", "etcd-1:2379"]."""
    user: str = ""
    """The user, if etcd requires authentication."""
    password: SecretStr = SecretStr("")
    """The user's password."""
    ca: str = ""
    """A PEM file with the CA of etcd's certificate; enables TLS."""
    certificate: str = ""
    """A PEM file with the client certificate for etcd."""
    key: str = ""
    """A PEM file with its key."""


class Kubernetes(Section):
    kubeconfig: str = ""
    """A kubeconfig file; empty means $KUBECONFIG, then the pod's ServiceAccount, then ~/.kube/config."""


class Discovery(Section):
    zone: str = ""
    """The zone that this process runs in: clients prefer servers in their zone, servers register theirs in etcd. Empty ignores zones."""
    empty: Empty = ""
    """What to do about an empty answer of the registry: keep, fail, or hold:SECONDS; empty means the source's default."""
    refresh: Annotated[Duration, Field(ge=0.01, le=86400)] = 5.0
    """dns-poll: the interval between queries."""
    dns_servers: Names = ()
    """dns-poll: DNS servers to use in place of the system's, as JSON: ["10.96.0.10:53"]."""
    remember: str = ""
    """A directory for the last known good endpoints, with which a client can start while the registry is down; empty disables it."""
    etcd: Etcd = Etcd()
    kubernetes: Kubernetes = Kubernetes()

    def config(self) -> discovery.Config:
        """The library's configuration. Raises discovery.TargetError for an invalid value."""
        return discovery.Config(
            zone=self.zone,
            empty=discovery.Empty.parse(self.empty) if self.empty else None,
            remember=discovery.Remember(self.remember),
            dns=discovery.Dns(refresh=self.refresh, servers=self.dns_servers),
            etcd=discovery.Etcd(**{**dict(self.etcd), "password": self.etcd.password.get_secret_value()}),
            kubernetes=discovery.Kubernetes(kubeconfig=self.kubernetes.kubeconfig),
        )


class Registration(Section):
    target: Target | None = None
    """Where the server registers itself: etcd:///name. none for registries that list pods by themselves."""
    address: str = ""
    """The IP address at which others reach this server, such as its pod's; with :port if it differs from SERVER__PORT."""
    weight: Annotated[int, Field(ge=1, le=65535)] = 1
    """The server's weight relative to other servers."""


class Tls(Section):
    mode: Literal["off", "tls", "mtls"] = "off"
    """off means plaintext; with tls the server presents a certificate, with mtls the client too."""
    certificate: str = ""
    """A PEM file with this process's certificate and its intermediate certificates: tls.crt of a Secret."""
    key: str = ""
    """A PEM file with the certificate's key, without a password: tls.key of a Secret."""
    ca: str = ""
    """A PEM file with the CAs that the other side's certificate must come from: ca.crt of a Secret. For a client, empty means the system's."""
    server_name: str = SERVER_NAME
    """The DNS name that the server's certificate must have, whatever the target. Empty means the name in the target."""
    allowed_clients: Rules | None = None
    """The clients that may call, by a DNS name or URI (SPIFFE) in the client's certificate, as JSON: a list, or a map from method or * to lists. none means every client with a certificate."""


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The minimum level."""
    format: Literal["console", "json"] = "console"
    """console for people, json for machines: one object a line, with time, severity, logger, message, trace_id, and span_id."""
