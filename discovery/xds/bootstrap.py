"""The xDS bootstrap of this process: the user's, with our control plane added.

gRPC reads one bootstrap per process (gRFC A27), from the file named by GRPC_XDS_BOOTSTRAP or else from the variable
GRPC_XDS_BOOTSTRAP_CONFIG. Ours is a separate authority in it (gRFC A47), so the user's own control plane keeps working.
"""

import importlib
import json
import os
import sys
import types
from collections.abc import MutableMapping
from typing import Any

from ..errors import ControlPlaneError
from .resources import AUTHORITY, LISTENER

_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")  # gRPC's type stubs leave it out

FILE = "GRPC_XDS_BOOTSTRAP"
TEXT = "GRPC_XDS_BOOTSTRAP_CONFIG"

_MARK = "grpc_discovery"
"""A top-level field, which gRPC ignores: who wrote it, and whether the user had a bootstrap."""

_COPIES = "_grpc_discovery"
"""The name in sys.modules by which copies of this library find each other, whatever their versions."""

_FIRST_COPIES = "_grpc_discovery_1"
"""The same of version 1, whose mark has no token."""


def users_own(environment: MutableMapping[str, str]) -> bool:
    """Whether the user has named a control plane, apart from ours."""
    config = _read(environment)
    return bool(config) and not config.get(_MARK, {}).get("alone", False)


def merge(environment: MutableMapping[str, str], server_uri: str) -> None:
    """Add our control plane at `server_uri` to the bootstrap that gRPC will read from `environment`.

    The file variable is unset, because gRPC would prefer it; the file's contents go into the other variable. An entry from a parent
    process is replaced, and so is one from before an exec, which keeps the process id and the environment. Raises ControlPlaneError, and changes nothing, if the user's bootstrap cannot be read, or if an incompatible
    copy of this library is in use in this process.
    """
    config = _read(environment)
    mark = config.pop(_MARK, None)
    if mark is not None:
        if _written_here(mark) and mark.get("server_uri") != server_uri:
            raise ControlPlaneError(
                "another copy of this library, of an incompatible version, has its control plane in this process, "
                "and gRPC reads one bootstrap per process; bring both copies to the same version"
            )
        if mark.get("alone"):
            config = {}
    server = {"server_uri": server_uri, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    alone = not config
    authorities = dict(config.get("authorities", {}))
    authorities[AUTHORITY] = {
        "client_listener_resource_name_template": f"xdstp://{AUTHORITY}/{LISTENER}/%s",
        "xds_servers": [server],
    }
    merged = {
        "xds_servers": [server],  # required; the user's own entry replaces it
        "node": {"id": AUTHORITY},
        **config,
        "authorities": authorities,
        _MARK: {"process": os.getpid(), "token": _token(), "alone": alone, "server_uri": server_uri},
    }
    environment[TEXT] = json.dumps(merged)
    environment.pop(FILE, None)


def check_greenlets() -> None:
    """Raises ControlPlaneError, with the remedy, if gevent or eventlet has patched this process in a way that a channel cannot work in.

    With patched threads the control plane runs as greenlets, and gRPC blocks the one thread that runs them all, for ever, unless it is
    initialized for gevent. A patched queue between native threads, and the opposite, end likewise.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise ControlPlaneError(
            "eventlet has patched threads, which gRPC does not support, and a channel would block every greenlet: "
            "call eventlet.monkey_patch(thread=False)"
        )
    if gevent is None:
        return
    threads, queues = gevent.is_module_patched("threading"), gevent.is_module_patched("queue")
    if threads != queues:
        raise ControlPlaneError(
            "gevent has patched only one of threads and queues, and a channel would not work: "
            "call gevent.monkey.patch_all() with thread and queue both on or both off"
        )
    if threads and not getattr(_cygrpc, "g_gevent_activated", True):
        raise ControlPlaneError(
            "gevent has patched this process, but gRPC is not initialized for it, and a channel would block every greenlet: "
            "call grpc.experimental.gevent.init_gevent() after gevent.monkey.patch_all() and before the first channel"
        )


def _token() -> str:
    """A random name of this process, the same for every copy of the library in it. A fork and an exec begin without one."""
    copies = sys.modules.setdefault(_COPIES, types.ModuleType(_COPIES))
    token: str = copies.__dict__.setdefault("token", os.urandom(8).hex())
    return token


def _written_here(mark: dict[str, Any]) -> bool:
    """Whether a copy of this library in this process wrote the mark."""
    if "token" in mark:
        return bool(mark["token"] == _token())
    return mark.get("process") == os.getpid() and _FIRST_COPIES in sys.modules


def _read(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """The user's bootstrap, empty if there is none."""
    path = environment.get(FILE, "")
    origin = f"the file '{path}' that {FILE} names" if path else f"the variable {TEXT}"
    try:
        text = environment.get(TEXT, "")
        if path:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        if not text.strip():
            return {}
        config = json.loads(text)
        if not isinstance(config, dict) or not isinstance(config.get("authorities", {}), dict):
            raise ValueError("it must be a JSON object, its 'authorities' too")
    except (OSError, ValueError) as error:
        raise ControlPlaneError(
            f"our control plane cannot be added to the xDS bootstrap: {origin} cannot be used: {error}; fix it or unset it"
        ) from None
    return config


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: sys.modules.pop(_COPIES, None))
