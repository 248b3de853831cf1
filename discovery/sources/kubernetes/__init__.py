"""EndpointSlices from the Kubernetes API (scheme kubernetes). In a pod no library is needed, for a kubeconfig the official client."""

import importlib.util
import os

from ...config import Config
from ...errors import TargetError
from ...target import Target
from . import source
from .source import KubernetesSource


def open_source(target: Target, config: Config) -> KubernetesSource:
    """The source of a `kubernetes:///service[.namespace][:port]` target; `config.kubernetes` applies.

    Raises TargetError if there are no credentials, or if the library that reads a kubeconfig is missing. Nothing is read yet.
    """
    settings = config.kubernetes
    chosen = settings.kubeconfig or os.environ.get("KUBECONFIG")
    if not chosen and not settings.context and _in_pod():
        return KubernetesSource(target, settings, ())
    if importlib.util.find_spec("kubernetes") is None:
        raise TargetError(f"target '{target}' needs the library kubernetes, except in a pod: pip install 'kubernetes>=33'")
    files = tuple(os.path.expanduser(name) for name in (chosen or "~/.kube/config").split(os.pathsep) if name)
    if not any(map(os.path.isfile, files)):
        raise TargetError(
            f"target '{target}': there are no credentials for a Kubernetes API (no file {' or '.join(files)}); run in a pod, set "
            f"KUBECONFIG, or name a file in Kubernetes(kubeconfig=...)"
        )
    return KubernetesSource(target, settings, files)


def _in_pod() -> bool:
    host = os.environ.get("KUBERNETES_SERVICE_HOST") and os.environ.get("KUBERNETES_SERVICE_PORT")
    return bool(host) and all(os.path.exists(f"{source.ACCOUNT}/{name}") for name in ("token", "ca.crt"))
