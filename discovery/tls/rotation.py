"""Certificate rotation: a channel on gRPC's own channel, of which a new one is opened for every new set of TLS files.

gRPC's channel keeps its credentials for its lifetime. A second one is therefore opened, and is used once it is connected: servers
have then accepted the new certificate. Calls in progress stay on the old channel, which is closed after the last of them. This
works for every target, whether discovery or gRPC resolves it.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from .certificates import CertificateFiles

ChannelType = TypeVar("ChannelType")


class Generation(Generic[ChannelType]):
    """One channel, and how many calls are on it."""

    __slots__ = ("calls", "channel", "retired")

    def __init__(self, channel: ChannelType) -> None:
        self.channel = channel
        self.calls = 0
        self.retired = False


class Generations(Generic[ChannelType]):
    """The channel in use, and those that only finish their calls. `close` closes one; it may be called on any thread."""

    def __init__(self, first: ChannelType, close: Callable[[ChannelType], None]) -> None:
        self._lock = threading.Lock()
        self._close = close
        self._old: set[Generation[ChannelType]] = set()
        self.current = Generation(first)

    def enter(self) -> Generation[ChannelType]:
        """The channel for one call, to be left when the call ends."""
        with self._lock:
            generation = self.current
            generation.calls += 1
            return generation

    def leave(self, generation: Generation[ChannelType]) -> None:
        with self._lock:
            generation.calls -= 1
            ended = generation.retired and not generation.calls
            if ended:
                self._old.discard(generation)
        if ended:
            self._close(generation.channel)

    def replace(self, fresh: ChannelType) -> ChannelType:
        """New calls use `fresh` from now on; returns the previous channel."""
        with self._lock:
            before, self.current = self.current, Generation(fresh)
            before.retired = True
            ended = not before.calls
            if not ended:
                self._old.add(before)
        if ended:
            self._close(before.channel)
        return before.channel

    def all(self) -> list[ChannelType]:
        with self._lock:
            return [generation.channel for generation in (self.current, *self._old)]


class RenewedChannel(grpc.Channel):
    """`grpc.secure_channel` with files in place of credentials. `open` opens gRPC's channel."""

    def __init__(self, files: CertificateFiles, open: Callable[[grpc.ChannelCredentials], grpc.Channel]) -> None:
        self._open = open
        self._lock = threading.Lock()  # guards the two below
        self._fresh: grpc.Channel | None = None
        self._watchers: list[Callable[[grpc.ChannelConnectivity], None]] = []
        used = files.credentials
        self.generations = Generations(open(used), _close)
        renew = weakref.WeakMethod(self._renew)

        def on_change(credentials: grpc.ChannelCredentials) -> None:
            living = renew()
            if living is not None:
                living(credentials)

        self._unsubscribe = weakref.finalize(self, files.subscribe(on_change))
        self._unsubscribe.atexit = False
        if files.credentials is not used:  # they changed in between
            self._renew(files.credentials)

    def _renew(self, credentials: grpc.ChannelCredentials) -> None:
        """Open another channel. It is used once it is connected, or immediately if the one in use is not connected."""
        fresh = self._open(credentials)
        with self._lock:
            superseded, self._fresh = self._fresh, fresh
        if superseded is not None:
            superseded.close()
        used = self.generations.current.channel

        def on_fresh(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                take_over()

        def on_used(state: grpc.ChannelConnectivity) -> None:
            used.unsubscribe(on_used)  # only the state at this moment counts
            if state is not grpc.ChannelConnectivity.READY:
                take_over()

        def take_over() -> None:
            with self._lock:
                if self._fresh is not fresh:
                    return
                self._fresh = None
                watchers = list(self._watchers)
            fresh.unsubscribe(on_fresh)
            for watcher in watchers:
                fresh.subscribe(watcher)
            self.generations.replace(fresh)

        fresh.subscribe(on_fresh, try_to_connect=True)
        used.subscribe(on_used)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        with self._lock:
            self._watchers.append(callback)
        self.generations.current.channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            if callback in self._watchers:
                self._watchers.remove(callback)
        for channel in self.generations.all():
            channel.unsubscribe(callback)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _One(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _One(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_stream", args, kwargs)

    def close(self) -> None:
        self._unsubscribe()
        with self._lock:
            fresh, self._fresh = self._fresh, None
        for channel in (*self.generations.all(), *([fresh] if fresh is not None else [])):
            channel.close()

    def __enter__(self) -> "RenewedChannel":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _close(channel: grpc.Channel) -> None:
    """On a thread of its own: closing waits for the gRPC thread on which a call reports its end."""
    threading.Thread(target=channel.close, name="discovery closes a channel", daemon=True).start()


class _Method:
    """A method whose answer is a stream. The callable of gRPC's channel is created once for each channel."""

    def __init__(self, owner: RenewedChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._owner = owner
        self._made = (kind, args, kwargs)
        self._last: tuple[Generation[grpc.Channel] | None, Any] = (None, None)

    def _callable(self, generation: Generation[grpc.Channel]) -> Any:
        last = self._last
        if last[0] is not generation:
            kind, args, kwargs = self._made
            self._last = last = (generation, getattr(generation.channel, kind)(*args, **kwargs))
        return last[1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(lambda inner: inner(*args, **kwargs))

    def _begin(self, begin: Callable[[Any], Any]) -> Any:
        """A call that continues after this returns."""
        generations = self._owner.generations
        generation = generations.enter()
        try:
            call = begin(self._callable(generation))
        except BaseException:
            generations.leave(generation)
            raise
        if not call.add_callback(lambda: generations.leave(generation)):
            generations.leave(generation)
        return call


class _One(_Method):
    """A method with one answer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._whole(lambda inner: inner(*args, **kwargs))

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._whole(lambda inner: inner.with_call(*args, **kwargs))

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(lambda inner: inner.future(*args, **kwargs))

    def _whole(self, call: Callable[[Any], Any]) -> Any:
        generations = self._owner.generations
        generation = generations.enter()
        try:
            return call(self._callable(generation))
        finally:
            generations.leave(generation)
