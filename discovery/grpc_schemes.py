"""Targets that gRPC resolves itself: the URI and the default options for them."""

import json
import os
from collections.abc import Sequence
from typing import Any

from .errors import TargetError
from .target import Target
from .xds.bootstrap import FILE, TEXT, users_own
from .xds.service_config import OPTION

Options = Sequence[tuple[str, Any]]

_DEFAULTS: dict[str, dict[str, Any]] = {
    # The usual settings for a headless Service; gRPC's own default is pick_first without health checks.
    "dns": {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}},
    "passthrough": {"loadBalancingConfig": [{"pick_first": {}}]},
}


def prepare(target: Target, options: Options) -> tuple[str, Options]:
    """The target and the options for gRPC. The caller's service config is extended, never overridden.

    Raises TargetError for xds if no bootstrap names a control plane (gRPC would fail every RPC instead).
    """
    if target.scheme == "xds" and not users_own(os.environ):
        raise TargetError(
            f"target '{target}' needs an external xDS control plane: name its bootstrap file in {FILE}, or put the JSON in {TEXT}"
        )
    uri = target.text
    if target.scheme == "passthrough":
        # gRPC's C core has no passthrough resolver and would look the whole text up in DNS.
        uri = f"dns:///{target.name}"
    # Existing code writes targets without a scheme: they are passed to gRPC unchanged.
    if target.scheme not in _DEFAULTS or not target.text.lower().startswith(f"{target.scheme}:"):
        return uri, options
    given: dict[str, Any] = {}
    for name, value in options:
        if name == OPTION:
            try:
                given = json.loads(value)
                if not isinstance(given, dict):
                    raise ValueError("it must be a JSON object")
            except (TypeError, ValueError) as error:
                raise TargetError(
                    f"the option {OPTION} cannot be read: {error}; it must be a gRPC service config in JSON"
                ) from None
    defaults = dict(_DEFAULTS[target.scheme])
    if "loadBalancingConfig" in given or "loadBalancingPolicy" in given:
        # gRPC's health checking has no effect on pick_first, and is the caller's choice for the others.
        defaults = {}
    others = [(name, value) for name, value in options if name != OPTION]
    return uri, [*others, (OPTION, json.dumps(defaults | given))]
