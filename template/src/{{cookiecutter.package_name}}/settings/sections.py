"""The settings by section, each with its default and a description. Your own are in `own`."""

import socket
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from .. import discovery
from ..defaults import SERVER_NAME, TARGET
from .durations import Duration

Positive = Annotated[Duration, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""gRPC stores its arguments, and some of them doubled, in 32 bits."""


class Section(BaseModel):
    """A group of settings; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServerKeepalive(Section):
    time: Positive = 60.0
    """The server pings a connection after this time without activity."""
    timeout: Positive = 20.0
    """The server closes a connection if a ping is not answered within this time."""
    min_ping_interval: Positive = 10.0
    """The server closes connections of clients that ping more often (too_many_pings)."""
    permit_without_calls: bool = True
    """Whether clients may ping while they have no call in progress."""


class Drain(Section):
    wait: Duration = 10.0
    """After SIGTERM, how long the server keeps serving so that clients can react to NOT_SERVING."""
    grace: Duration = 20.0
    """After that, how long calls in progress may take before they are canceled."""
    pre_stop: Duration = 0.0
    """The pod's preStop sleep, if it has one; it counts against termination_grace."""
    termination_grace: Positive = 45.0
    """The pod's terminationGracePeriodSeconds, after which Kubernetes kills the pod."""


class Server(Section):
    host: str = "0.0.0.0"
    """The address to listen on; [::] for IPv6."""
    port: Port = 50051
    """The port to listen on; 0 selects a free port, which is logged."""
    name: str = Field(default_factory=socket.gethostname)
    """The server's name in the metadata x-served-by of every call, and in telemetry; on Kubernetes the host name is the pod's name. Empty adds no metadata."""
    health_port: Port | None = None
    """A second port for health checks only, in plaintext, because the kubelet's probes cannot use TLS. none opens no port, 0 a free one."""
    reflection: bool | None = None
    """Whether to serve reflection, which grpcurl and similar tools use. none means true, but false with TLS__MODE=mtls."""
    channelz: bool | None = None
    """Whether to serve channelz, which shows connections and calls. none means true, but false with TLS__MODE=mtls."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1)] | None = 1000
    """The limit of concurrent calls; more are rejected with RESOURCE_EXHAUSTED. Health checks do not count. none means no limit."""
    max_connections: Count | None = 4096
    """The limit of connections, probes included; more are closed immediately. none means no limit."""
    max_concurrent_streams: Count | None = None
    """The limit of concurrent calls on one connection; set overload_protection to false too, or gRPC rejects calls instead of queueing them."""
    overload_protection: bool = True
    """gRPC's own overload protection, which rejects streams above max_concurrent_streams."""
    max_message_bytes: Count = 4 * 1024 * 1024
    """The maximum size of a request."""
    max_bytes_in_flight: Count = 16 * 1024 * 1024
    """The limit of the sizes of all requests in progress; further ones wait. It bounds the memory."""
    max_metadata_bytes: Annotated[Count, Field(ge=256)] = 16 * 1024
    """The maximum size of a call's metadata."""
    handshake_timeout: Positive = 10.0
    """The timeout for establishing a connection."""
    max_connection_age: Positive | None = 300.0
    """The maximum age of a connection; clients then reconnect, and those without discovery resolve the name again. none means no limit."""
    max_connection_age_grace: Positive | None = 30.0
    """How long calls may continue on a connection that has reached its maximum age."""
    max_connection_idle: Positive | None = 900.0
    """Connections without a call are closed after this time."""
    keepalive: ServerKeepalive = ServerKeepalive()
    drain: Drain = Drain()


class ClientKeepalive(Section):
    time: Positive = 30.0
    """The client pings a connection after this time without activity."""
    timeout: Positive = 10.0
    """The client closes a connection if a ping is not answered within this time; a hung server is detected after both together."""
    permit_without_calls: bool = True
    """Whether to ping while no call is in progress."""
    max_pings_without_data: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """The number of pings without data; 0 means no limit, gRPC's default is 2."""


class Retry(Section):
    enabled: bool = True
    """Whether failed calls are retried."""
    attempts: int = 3
    """The maximum number of attempts, the first included: 2 to 5."""
    initial_backoff: Positive = 0.1
    """The upper bound of the backoff before the second attempt; it doubles with each attempt."""
    max_backoff: Positive = 1.0
    """The upper bound of the backoff between two attempts."""
    status_codes: tuple[str, ...] = ("UNAVAILABLE",)
    """The status codes that are retried; CANCELLED only where a call may be executed twice."""
    max_tokens: Annotated[int, Field(ge=1, le=1000)] = 100
    """Retry throttle: each failed call removes a token; below half of this number, nothing is retried."""
    token_ratio: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """Retry throttle: the tokens that a successful call adds."""


class Outliers(Section):
    threshold: Annotated[int, Field(ge=0, le=100)] = 85
    """A server is ejected when this percentage of its calls within interval did not end with OK, canceled streams included. 0 ejects none."""
    interval: Positive = 5.0
    """How often servers are evaluated."""
    min_requests: Annotated[int, Field(ge=1)] = 5
    """The number of calls within interval below which a server is not evaluated."""
    ejection: Positive = 10.0
    """How long the first ejection lasts; each further one is longer by this time."""
    max_ejection: Positive = 60.0
    """The maximum duration of an ejection."""
    max_percent: Annotated[int, Field(ge=1, le=100)] = 30
    """No further server is ejected once this percentage of the servers is; with 30, one of three."""


class Client(Section):
    target: str = TARGET
    """Where the servers are: scheme:///name, see docs/configuration.md."""
    rate: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    """The load generator's calls per second."""
    timeout: Positive = 2.0
    """The timeout of a call, retries included."""
    stream_timeout: Positive = 3600.0
    """The timeout of a stream."""
    max_in_flight: Annotated[int, Field(ge=1)] = 1000
    """The load generator's limit of concurrent calls; further ones are not made and counted as skipped."""
    health_host: str = "0.0.0.0"
    """The address of the load generator's own health server."""
    health_port: Port = 50052
    """The port of the load generator's own health server; 0 selects a free port."""
    load_balancing: Literal["round_robin", "pick_first"] = "round_robin"
    """The load balancing policy for targets that gRPC resolves itself; discovery's are always round_robin."""
    health_check: bool = True
    """Whether servers that report NOT_SERVING get no calls; needs round_robin."""
    service_config: str | None = None
    """A gRPC service config in JSON, in place of the one that the settings above produce."""
    keepalive: ClientKeepalive = ClientKeepalive()
    retry: Retry = Retry()
    outliers: Outliers = Outliers()


class Etcd(Section):
    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1:2379",)
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
    timeout: Positive = 5.0
    """The timeout of a request."""
    keepalive: Positive = 10.0
    """How often a silent watch is checked."""


class Kubernetes(Section):
    kubeconfig: str = ""
    """A kubeconfig file; empty means $KUBECONFIG, then the pod's ServiceAccount, then ~/.kube/config."""
    context: str = ""
    """A context of the kubeconfig; empty means its current one."""
    timeout: Positive = 10.0
    """The timeout of a request."""


class Discovery(Section):
    zone: str = ""
    """The zone that this process runs in: clients prefer servers in their zone, servers register theirs in etcd. Empty ignores zones."""
    empty: str = ""
    """What to do about an empty answer of the registry: keep, fail, or hold:SECONDS; empty means the source's default."""
    refresh: Positive = 5.0
    """dns-poll: the interval between queries."""
    dns_timeout: Positive = 3.0
    """dns-poll: the timeout of a query."""
    dns_servers: tuple[str, ...] = ()
    """dns-poll: DNS servers to use in place of the system's, as JSON: ["10.96.0.10:53"]."""
    remember: str = ""
    """A directory for the last known good endpoints, with which a client can start while the registry is down; empty disables it."""
    remember_for: Positive = 86400.0
    """The maximum age of these endpoints."""
    etcd: Etcd = Etcd()
    kubernetes: Kubernetes = Kubernetes()

    def config(self, *, health_check: bool, outliers: discovery.Outliers | None = None) -> discovery.Config:
        """The library's configuration. Raises discovery.TargetError for an invalid value."""
        return discovery.Config(
            zone=self.zone,
            empty=discovery.Empty.parse(self.empty) if self.empty else None,
            health="" if health_check else None,
            outliers=outliers,
            remember=discovery.Remember(self.remember, self.remember_for),
            dns=discovery.Dns(refresh=self.refresh, timeout=self.dns_timeout, servers=self.dns_servers),
            etcd=discovery.Etcd(**{**dict(self.etcd), "password": self.etcd.password.get_secret_value()}),
            kubernetes=discovery.Kubernetes(**dict(self.kubernetes)),
        )


class Registration(Section):
    target: str | None = None
    """Where the server registers itself: etcd:///name. none for registries that list pods by themselves."""
    address: str = ""
    """The IP address at which others reach this server, such as its pod's; with :port if it differs from SERVER__PORT."""
    id: str = ""
    """The ID of the entry; the same ID replaces an older entry. Empty means the address with its port."""
    weight: Annotated[int, Field(ge=1, le=65535)] = 1
    """The server's weight relative to other servers."""
    ttl: Annotated[Duration, Field(ge=1, le=3600, multiple_of=1)] = 10.0
    """How long the entry of a server remains after it has died, in whole seconds."""


class Tls(Section):
    mode: Literal["off", "tls", "mtls"] = "off"
    """off means plaintext; with tls the server presents a certificate, with mtls the client too."""
    certificate: str = ""
    """A PEM file with this process's certificate and its intermediate certificates: tls.crt of a Secret."""
    key: str = ""
    """A PEM file with the certificate's key, without a password: tls.key of a Secret."""
    ca: str = ""
    """A PEM file with the CAs that the other side's certificate must come from: ca.crt of a Secret. For a client, empty means the system's."""
    refresh: Positive = 10.0
    """How often the files are checked; new ones are loaded without a restart."""
    server_name: str = SERVER_NAME
    """The DNS name that the server's certificate must have, whatever the target. Empty means the name in the target."""
    allowed_clients: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """The clients that may call, by a DNS name or URI (SPIFFE) in the client's certificate, as JSON: a list, or a map from method or * to lists. none means every client with a certificate."""


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The minimum level."""
    format: Literal["console", "json"] = "console"
    """console for people, json for machines."""
