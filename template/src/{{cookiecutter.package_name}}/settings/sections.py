"""The settings by section, each with its default and what it does. `own` has yours."""

import socket
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from .. import discovery
from ..defaults import SERVER_NAME, TARGET
from .durations import Duration

Positive = Annotated[Duration, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""gRPC holds its arguments, and twice some of them, in 32 bits."""


class Section(BaseModel):
    """A group of settings; a name that does not exist is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServerKeepalive(Section):
    time: Positive = 60.0
    """A connection that is silent for this long is pinged."""
    timeout: Positive = 20.0
    """A ping that is not answered within this time ends the connection."""
    min_ping_interval: Positive = 10.0
    """Clients that ping more often are sent away (too_many_pings)."""
    permit_without_calls: bool = True
    """Whether clients may ping while they have no call."""


class Drain(Section):
    wait: Duration = 10.0
    """After SIGTERM, how long the server goes on while everybody learns that it is NOT_SERVING."""
    grace: Duration = 20.0
    """After that, how long calls under way may take before they are cut."""
    pre_stop: Duration = 0.0
    """The preStop sleep of the pod, if it has one; counted against termination_grace."""
    termination_grace: Positive = 45.0
    """The pod's terminationGracePeriodSeconds, after which Kubernetes kills it."""


class Server(Section):
    host: str = "0.0.0.0"
    """The address to listen on; [::] for IPv6."""
    port: Port = 50051
    """The port to listen on; 0 takes any free one and logs it."""
    name: str = Field(default_factory=socket.gethostname)
    """What the metadata x-served-by of every answer says; on Kubernetes the host's name is the pod's. Empty adds no metadata."""
    health_port: Port | None = None
    """A second port, for health alone and always in plaintext: the kubelet's probes know no TLS. none opens none, 0 takes any free one."""
    reflection: bool | None = None
    """Offer the reflection service, which grpcurl and similar tools ask. none is yes, but no with TLS__MODE=mtls."""
    channelz: bool | None = None
    """Offer the channelz service, which tells of connections and calls. none is yes, but no with TLS__MODE=mtls."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1)] | None = 1000
    """Calls of the service at one time; more are refused with RESOURCE_EXHAUSTED, health checks are not. none is without limit."""
    max_connections: Count | None = 4096
    """Connections at one time, probes included; more are closed at once. none is without limit."""
    max_concurrent_streams: Count | None = None
    """Calls at one time on one connection; needs overload_protection off, or gRPC refuses instead of queueing."""
    overload_protection: bool = True
    """gRPC's own protection, which refuses streams above max_concurrent_streams."""
    max_message_bytes: Count = 4 * 1024 * 1024
    """The largest request that is read."""
    max_metadata_bytes: Annotated[Count, Field(ge=256)] = 16 * 1024
    """The largest set of headers that is read."""
    handshake_timeout: Positive = 10.0
    """How long a new connection may take to be set up."""
    max_connection_age: Positive | None = 300.0
    """Connections older than this are renewed, so that clients in other languages look for new servers. none is for ever."""
    max_connection_age_grace: Positive | None = 30.0
    """How long calls on a connection to be renewed may take."""
    max_connection_idle: Positive | None = 900.0
    """Connections without a call for this long are closed."""
    keepalive: ServerKeepalive = ServerKeepalive()
    drain: Drain = Drain()


class ClientKeepalive(Section):
    time: Positive = 30.0
    """A connection that is silent for this long is pinged."""
    timeout: Positive = 10.0
    """A ping that is not answered within this time ends the connection; a frozen server is noticed after both together."""
    permit_without_calls: bool = True
    """Whether to ping while there is no call."""
    max_pings_without_data: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Pings between two calls; 0 is without limit, 2 is gRPC's default."""


class Retry(Section):
    enabled: bool = True
    """Whether failed calls are made again."""
    attempts: int = 3
    """Calls altogether, 2 to 5."""
    initial_backoff: Positive = 0.1
    """The wait before the second attempt, at most; it doubles."""
    max_backoff: Positive = 1.0
    """The longest wait between two attempts."""
    status_codes: tuple[str, ...] = ("UNAVAILABLE",)
    """On which status codes; CANCELLED only where calls may be made twice."""
    max_tokens: Annotated[int, Field(ge=1, le=1000)] = 100
    """Retry throttle: every failed call takes a token; below half of this there are no retries."""
    token_ratio: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """Retry throttle: what a successful call gives back."""


class Outliers(Section):
    threshold: Annotated[int, Field(ge=0, le=100)] = 85
    """A server is taken out for a while when so many percent of its calls within interval did not end with OK; streams that the client left count, too. 0 takes none out."""
    interval: Positive = 5.0
    """How often servers are judged."""
    min_requests: Annotated[int, Field(ge=1)] = 5
    """Calls within interval below which a server is not judged."""
    ejection: Positive = 10.0
    """How long a server is out the first time; each further time is longer by as much."""
    max_ejection: Positive = 60.0
    """The longest time out."""
    max_percent: Annotated[int, Field(ge=1, le=100)] = 30
    """No server is taken out once so many percent of them are; so one of three at 30."""


class Client(Section):
    target: str = TARGET
    """Where the servers are: scheme:///name, see docs on targets."""
    rate: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    """Requests a second that the loop makes."""
    timeout: Positive = 2.0
    """The deadline of a call, retries included."""
    stream_timeout: Positive = 3600.0
    """The deadline of a stream."""
    max_in_flight: Annotated[int, Field(ge=1)] = 1000
    """Calls of the loop at one time; what would be more is not made, and counted as skipped."""
    health_host: str = "0.0.0.0"
    """The address of the client's own health server."""
    health_port: Port = 50052
    """The port of the client's own health server; 0 takes any free one."""
    load_balancing: Literal["round_robin", "pick_first"] = "round_robin"
    """How gRPC spreads calls on targets that gRPC resolves itself; discovery's own are always round_robin."""
    health_check: bool = True
    """Whether servers that say NOT_SERVING get no calls; needs round_robin."""
    service_config: str | None = None
    """A gRPC service config in JSON, instead of the one that the settings above make."""
    keepalive: ClientKeepalive = ClientKeepalive()
    retry: Retry = Retry()
    outliers: Outliers = Outliers()


class Etcd(Section):
    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1:2379",)
    """etcd's members, host:port or https://host:port, as JSON: ["etcd-0:2379", "etcd-1:2379"]."""
    user: str = ""
    """Where etcd wants a user."""
    password: SecretStr = SecretStr("")
    """The user's password."""
    ca: str = ""
    """A PEM file with the authority of etcd's certificate; it means TLS."""
    certificate: str = ""
    """A PEM file with the certificate to show to etcd."""
    key: str = ""
    """A PEM file with its key."""
    timeout: Positive = 5.0
    """How long one request may take."""
    keepalive: Positive = 10.0
    """How often a silent watch is asked whether it still lives."""


class Kubernetes(Section):
    kubeconfig: str = ""
    """A kubeconfig file; empty is $KUBECONFIG, then the pod's service account, then ~/.kube/config."""
    context: str = ""
    """One of the kubeconfig's contexts; empty is its current one."""
    timeout: Positive = 10.0
    """How long one request may take."""


class Discovery(Section):
    zone: str = ""
    """The zone that this process runs in: clients prefer servers of theirs, servers tell it to etcd. Empty means that zones do not count."""
    empty: str = ""
    """What an empty answer of the registry means: keep, fail, hold:SECONDS; empty is the source's own choice."""
    refresh: Positive = 5.0
    """dns-poll: from one answer to the next question."""
    dns_timeout: Positive = 3.0
    """dns-poll: how long one question may take."""
    dns_servers: tuple[str, ...] = ()
    """dns-poll: servers to ask instead of the system's, as JSON: ["10.96.0.10:53"]."""
    remember: str = ""
    """A directory for the last known good set, with which a client can start while the registry is down; empty keeps none."""
    remember_for: Positive = 86400.0
    """How old such a set may be."""
    etcd: Etcd = Etcd()
    kubernetes: Kubernetes = Kubernetes()

    def config(self, *, health_check: bool, outliers: discovery.Outliers | None = None) -> discovery.Config:
        """What the library is given. Raises discovery.TargetError for what it refuses."""
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
    """Where the server registers itself: etcd:///name. none is for registries that list pods by themselves."""
    address: str = ""
    """The IP address under which others reach this server, its pod's for example; with :port where that differs from SERVER__PORT."""
    id: str = ""
    """The entry's name; the same id replaces an older entry. Empty is the address with its port."""
    weight: Annotated[int, Field(ge=1, le=65535)] = 1
    """The server's share of requests, beside others."""
    ttl: Annotated[Duration, Field(ge=1, le=3600, multiple_of=1)] = 10.0
    """How long the entry of a server that died stays, in whole seconds."""


class Tls(Section):
    mode: Literal["off", "tls", "mtls"] = "off"
    """off is plaintext; with tls the server shows a certificate, with mtls the client too."""
    certificate: str = ""
    """A PEM file with this process's certificate and what leads from it to the authority: tls.crt of a Secret."""
    key: str = ""
    """A PEM file with its key, without a password: tls.key of a Secret."""
    ca: str = ""
    """A PEM file with the authorities that the other side's certificate must come from: ca.crt of a Secret. Empty is the system's, for a client."""
    refresh: Positive = 10.0
    """From one look at the files to the next; new ones are taken up without a restart."""
    server_name: str = SERVER_NAME
    """The DNS name that the server's certificate must carry, whatever the target. Empty is the name in the target."""
    allowed_clients: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """Who may call, by a DNS or URI name (SPIFFE) of the client's certificate, as JSON: a list, or a map from method or * to lists. none is every client with a certificate."""


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """From which level on."""
    format: Literal["console", "json"] = "console"
    """Lines for people or for machines."""
