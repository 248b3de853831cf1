"""What a registry must offer, and the table that finds it by a target's scheme.

To add a registry: write `sources/<module>.py` with a class that fulfils `Source`, and add its line to `SOURCES`.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

from ..config import Config, Empty
from ..errors import TargetError
from ..snapshot import Snapshot
from ..target import Target


class Source(Protocol):
    """One registry's word on one target. A resolver owns it, runs `watch` on a thread of its own, and closes it."""

    knows_health: ClassVar[bool]
    """Whether the registry drops or marks endpoints that are not ready. If not, the endpoints are asked themselves."""

    empty: ClassVar[Empty]
    """What an empty answer after a non-empty one means here, unless the caller says otherwise."""

    def watch(self) -> Iterator[Snapshot]:
        """Yield the complete set, once it is complete, and again after every change; an empty one is a set too.

        Block until there is something to yield. Raise SourceError when the registry cannot be read or the stream breaks;
        ending without an error means a normal end. Either way the resolver calls `watch` again, after its backoff, and
        expects a fresh and complete set first. So a source never retries, delays or compares. Malformed entries are left
        out and named in the snapshot's `problems`.
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
    """The source that reads `target`; nothing is connected yet.

    Raises TargetError where the target cannot be meant, or where the source's file or library is not installed.
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
