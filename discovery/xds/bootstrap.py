"""The xDS bootstrap of this process: the user's, with our control plane added.

gRPC reads one bootstrap per process (gRFC A27), from the file named by GRPC_XDS_BOOTSTRAP or else from the variable
GRPC_XDS_BOOTSTRAP_CONFIG. Ours is a separate authority in it (gRFC A47), so the user's own control plane keeps working.
"""

import json
import os
from collections.abc import MutableMapping
from typing import Any

from ..errors import ControlPlaneError
from .resources import AUTHORITY, LISTENER

FILE = "GRPC_XDS_BOOTSTRAP"
TEXT = "GRPC_XDS_BOOTSTRAP_CONFIG"

_MARK = "grpc_discovery"
"""A top-level field, which gRPC ignores: the process that wrote it, and whether the user had a bootstrap."""


def users_own(environment: MutableMapping[str, str]) -> bool:
    """Whether the user has named a control plane, apart from ours."""
    config = _read(environment)
    return bool(config) and not config.get(_MARK, {}).get("alone", False)


def merge(environment: MutableMapping[str, str], server_uri: str) -> None:
    """Add our control plane at `server_uri` to the bootstrap that gRPC will read from `environment`.

    The file variable is unset, because gRPC would prefer it; the file's contents go into the other variable. An entry from a parent
    process is replaced. Raises ControlPlaneError, and changes nothing, if the user's bootstrap cannot be read, or if an incompatible
    copy of this library is in use in this process.
    """
    config = _read(environment)
    mark = config.pop(_MARK, None)
    if mark is not None:
        if mark.get("process") == os.getpid() and mark.get("server_uri") != server_uri:
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
        _MARK: {"process": os.getpid(), "alone": alone, "server_uri": server_uri},
    }
    environment[TEXT] = json.dumps(merged)
    environment.pop(FILE, None)


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
