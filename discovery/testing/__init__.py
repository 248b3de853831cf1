"""A kit for tests: servers that can be killed, registries on loopback that can fail, and faults on the calls of a channel.

    from discovery import testing

| | |
|---|---|
| `backends(3)` | real gRPC servers, to kill, freeze, drain, slow down, restart |
| `faults(channel, ...)` | some calls are aborted or delayed by gRPC itself |
| `etcd()`, `dns_server()`, `api_server()` | a registry for each source: `set`, `stop`, `start`, `freeze`, `thaw`, and `config` to reach it |
| `Proxy(address)` | a network between a client and a server or registry, to cut, refuse, silence |
| `python -m discovery.testing.certificates` | certificates of a CA for a server and a client |
| `discovery.Manual` | the registry of the scheme manual |

It needs what the library needs; `etcd()` needs etcd on PATH, `dns_server()` dnslib, `api_server(tls=True)` and certificates trustme: the extra
`testing`. All are context managers that end what they started. Methods block: in an event loop call the slow ones, such as
`restart`, by `asyncio.to_thread`.
"""

from .api_server import SERVICE_NAME, ApiServer, api_server
from .backends import Backend, BackendProcess, backends
from .faults import Proxy, faults
from .registries import DnsServer, EtcdServer, dns_server, etcd
from .serving import FOLLOW, WHO, Services

__all__ = [
    "FOLLOW",
    "SERVICE_NAME",
    "WHO",
    "ApiServer",
    "Backend",
    "BackendProcess",
    "DnsServer",
    "EtcdServer",
    "Proxy",
    "Services",
    "api_server",
    "backends",
    "dns_server",
    "etcd",
    "faults",
]
