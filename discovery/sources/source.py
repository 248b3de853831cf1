"""The protocol of sources, the table of them by scheme, and `register` for a program's own."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Protocol

from ..config import Config, Empty
from ..errors import TargetError
from ..snapshot import Snapshot
from ..target import Target, add_scheme, check_scheme


class Source(Protocol):
    """Reads one target from one registry. A resolver owns it, runs `watch` on a thread of its own, and closes it."""

    @property
    def knows_health(self) -> bool:
        """Whether the registry removes or marks endpoints that are not ready. If not, the endpoints are health-checked."""
        ...

    @property
    def empty(self) -> Empty:
        """The default policy for an empty set after a non-empty one."""
        ...

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


SOURCES: dict[str, tuple[str, str, str]] = {
    # scheme: (module under sources/, the package that it imports later, the distribution that has it)
    "dns-poll": ("dns", "dns", "dnspython"),
    "etcd": ("etcd", "", ""),
    "kubernetes": ("kubernetes", "", ""),  # its library is needed for a kubeconfig only; it tells by itself
    "manual": ("manual", "", ""),
    "static": ("static", "", ""),
}


OpenSource = Callable[[Target, Config], Source]
"""A function that makes the source of a target. It connects to nothing, because it runs on the thread that opens a channel, and raises
TargetError for a target that cannot be meant."""

_registered: dict[str, OpenSource] = {}


def register(scheme: str, open_source: OpenSource) -> None:
    """Make `scheme:///any text` a target that a source of the program's own reads, in channels, in lists, and on the command line.

        class EverySecond:
            knows_health = False  # the endpoints are health-checked
            empty = discovery.Empty("keep")  # an empty set after a full one is not believed
            registry = "inventory.example"  # tells cached sets of several registries apart

            def __init__(self, name: str) -> None:
                self._name, self._closed = name, threading.Event()

            def watch(self) -> Iterator[discovery.Snapshot]:
                while not self._closed.is_set():
                    yield discovery.Snapshot.of(discovery.Endpoint(host, port) for host, port in ask_inventory(self._name))
                    self._closed.wait(1.0)

            def close(self) -> None:
                self._closed.set()

        discovery.register("inventory", lambda target, config: EverySecond(target.name))
        channel = discovery.insecure_channel("inventory:///greeter")

    `Source` says what each of them means. A second call with the same function does nothing. Raises TargetError if `scheme` is no URI
    scheme in lower case, or is taken.
    """
    if scheme in _registered and _registered[scheme] is open_source:
        return
    check_scheme(scheme)
    _registered[scheme] = open_source  # before the scheme is known, for a thread that parses a target now
    add_scheme(scheme)


def open_source(target: Target, config: Config) -> Source:
    """The source for `target`. Nothing is connected yet, and no library is imported: that takes a while, on the source's thread.

    Raises TargetError if the target is invalid, or if the source's file or library is not installed.
    """
    if own := _registered.get(target.scheme):
        return own(target, config)
    module_name, package, distribution = SOURCES[target.scheme]
    if package and not _installed(package):
        raise TargetError(f"target '{target}' needs the library {distribution}: pip install {distribution}")
    try:
        module = importlib.import_module(f".{module_name}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module_name}":
            raise
        raise TargetError(
            f"target '{target}': this copy of the library has no {error.name}; add the file, or take another scheme"
        ) from None
    build: OpenSource = module.open_source
    return build(target, config)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is in sys.modules without a specification, such as a test's double
        return True
