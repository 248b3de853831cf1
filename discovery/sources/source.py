"""The protocol of sources, and the table of them by scheme.

To add a registry: write `sources/<module>.py` with a class that implements `Source`, and add a line to `SOURCES`.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

from ..config import Config, Empty
from ..errors import TargetError
from ..snapshot import Snapshot
from ..target import Target


class Source(Protocol):
    """Reads one target from one registry. A resolver owns it, runs `watch` on a thread of its own, and closes it."""

    knows_health: ClassVar[bool]
    """Whether the registry removes or marks endpoints that are not ready. If not, the endpoints are health-checked."""

    empty: ClassVar[Empty]
    """The default policy for an empty set after a non-empty one."""

    @property
    def registry(self) -> str:
        """Which registry is read, to tell the last known good sets of several apart: addresses, never a secret. Empty if unknown."""
        ...

    def watch(self) -> Iterator[Snapshot]:
        """Yield the complete set, once it is complete, and again after every change; an empty one is a set too.

        Block until there is something to yield. Raise SourceError when the registry cannot be read or the stream breaks; returning
        means a normal end. Either way, the resolver calls `watch` again, after its backoff, and expects a new complete set first. A
        source therefore never retries, delays, or compares. Malformed entries are skipped and named in the snapshot's `problems`.
        """
        ...

    def close(self) -> None:
        """Make a running `watch` return soon, and later ones at once. Called from another thread, perhaps twice."""
        ...


SOURCES: dict[str, tuple[str, str]] = {
    # scheme: (module under sources/, the library that it needs besides grpcio and protobuf)
    "dns-poll": ("dns", "dnspython"),
    "etcd": ("etcd", ""),
    "kubernetes": ("kubernetes", "kubernetes"),
    "manual": ("manual", ""),
    "static": ("static", ""),
}


def open_source(target: Target, config: Config) -> Source:
    """The source for `target`; nothing is connected yet.

    Raises TargetError if the target is invalid, or if the source's file or library is not installed.
    """
    module_name, library = SOURCES[target.scheme]
    try:
        module = importlib.import_module(f".{module_name}", __package__)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith(f"{__package__}."):
            raise TargetError(
                f"target '{target}': this copy of the library has no {__package__}.{module_name}; add the file, or take another scheme"
            ) from None
        raise TargetError(
            f"target '{target}' needs the library {library or error.name}: pip install {library or error.name}"
        ) from None
    build: Callable[[Target, Config], Source] = module.open_source
    return build(target, config)
