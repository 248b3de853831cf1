"""Certificate rotation: a channel on gRPC's own channel, of which a new one is opened for every new set of TLS files.

gRPC's channel keeps its credentials for its lifetime. A second one is therefore opened, and is used once it is connected: servers
have then accepted the new certificate. The previous one is not closed but dropped: gRPC finishes the calls on a channel that nobody
refers to, and then ends its connections. This works for every target, whether discovery or gRPC resolves it.
"""

import contextlib
import functools
import inspect
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grpc

from .certificates import CertificateFiles

ChannelType = TypeVar("ChannelType")
OnState = Callable[[grpc.ChannelConnectivity], None]
Renew = weakref.WeakMethod[Callable[[], None]]


class Method:
    """A method of a stub, bound to the current channel of its owner."""

    def __init__(self, owner: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._owner = owner
        self._made = (kind, args, kwargs)
        owner.methods[id(self)] = self
        self.bind()

    def bind(self) -> None:
        """Use the owner's current channel, also if it changes meanwhile."""
        kind, args, kwargs = self._made
        while True:
            channel = self._owner.current
            self._bound: tuple[Any, Any] = (channel, getattr(channel, kind)(*args, **kwargs))
            if channel is self._owner.current:
                return

    @property
    def _method(self) -> Any:
        """gRPC's own has this attribute: the method's name, by which programs recognize it."""
        return self._bound[1]


class _Stream(Method):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel, method = self._bound
        return _keep(channel, method(*args, **kwargs))


class _Unary(Method):
    """One answer. While the caller waits for it, the tuple in the caller's frame keeps the channel."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._bound
        return bound[1](*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._bound
        return bound[1].with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        channel, method = self._bound
        return _keep(channel, method.future(*args, **kwargs))


def _keep(channel: grpc.Channel, call: Any) -> Any:
    """The call, which keeps its channel until it ends, so that `close` finds and cancels it."""
    if inspect.isgenerator(call):  # OpenTelemetry's: the call begins with the first answer
        return _answers(channel, call)
    if hasattr(call, "add_callback"):
        call.add_callback([channel].clear)
    return call


def _answers(channel: grpc.Channel, call: Iterator[Any]) -> Iterator[Any]:
    yield from call


class Renewed(Generic[ChannelType]):
    """The channel in use, the one that is connecting to replace it, and those that only finish their calls.

    A channel goes from `_fresh` to `current` to `_old`, and is in the next place before it leaves one: `close`, which may run in a
    signal handler and takes no lock, finds all of them.
    """

    _unary: type[Method]
    _stream: type[Method]

    def __init__(self, files: CertificateFiles, open: Callable[[grpc.ChannelCredentials], ChannelType]) -> None:
        self.methods: weakref.WeakValueDictionary[int, Method] = weakref.WeakValueDictionary()
        self._files = files
        self._open = open
        self._opened_with: grpc.ChannelCredentials | None = files.checked_credentials()
        self._fresh: ChannelType | None = None
        self.current = open(self._opened_with)
        self._old: list[weakref.ref[ChannelType]] = []
        self._closed = False
        self._unsubscribe: Callable[[], object] = lambda: None

    def _watch(self, notify: Callable[[Renew], None], on_end: Callable[[], None] = lambda: None) -> None:
        """Call `notify` with `_renew` for every new set, until this channel is closed or collected."""
        renew: Renew = weakref.WeakMethod(self._renew)
        end = weakref.finalize(self, self._files.subscribe(lambda credentials: notify(renew), inherited=False, on_end=on_end))
        end.atexit = False
        self._unsubscribe = end
        self._renew()  # the files may have changed since the channel was opened

    def _renew(self) -> None:
        raise NotImplementedError

    def _replace(self, fresh: ChannelType) -> None:
        self._old = [*(old for old in self._old if old() is not None), weakref.ref(self.current)]
        self.current = fresh
        self._fresh = None

    def _rebind(self) -> None:
        """Let all methods use the current channel: what is left of the previous one are its calls."""
        for method in self.methods.valuerefs():
            if (living := method()) is not None:
                living.bind()

    def _channels(self) -> list[ChannelType]:
        return [channel for channel in (self._fresh, self.current, *(old() for old in self._old)) if channel is not None]

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self, "stream_stream", args, kwargs)


class RenewedChannel(Renewed[grpc.Channel]):
    """`grpc.secure_channel` with files in place of credentials. `open` opens gRPC's channel. To be used through channel.py."""

    _unary = _Unary
    _stream = _Stream

    def __init__(self, files: CertificateFiles, open: Callable[[grpc.ChannelCredentials], grpc.Channel]) -> None:
        super().__init__(files, open)
        self._lock = threading.Lock()  # guards the replacement and _watchers
        self._watchers: list[OnState] = []
        self._connecting: list[_Connecting] = []
        _instances.add(self)
        self._watch(call, functools.partial(_stop, self._connecting))

    def _renew(self) -> None:
        """Open another channel. It is used once it is connected, or immediately if the one in use is not connected."""
        credentials = self._files.credentials
        with self._lock:
            if self._closed or credentials is self._opened_with:
                return
            self._opened_with = credentials
        try:
            fresh = self._open(credentials)
            with self._lock:
                superseded, self._fresh = self._fresh, fresh
            if superseded is not None:
                superseded.close()
            if self._closed:
                fresh.close()
            else:
                _stop(self._connecting)
                self._connecting.append(connecting := _Connecting(self, fresh))
                connecting.start()
        except BaseException:
            self._opened_with = None  # the next check tries it again
            raise

    def take_over(self, fresh: grpc.Channel) -> None:
        """Use `fresh` from now on, unless a newer one is connecting."""
        with self._lock:
            if self._fresh is not fresh or self._closed:
                return
            used = self.current
            self._replace(fresh)
            watchers = list(self._watchers)
        self._rebind()
        for watcher in watchers:
            used.unsubscribe(watcher)
            fresh.subscribe(watcher)
            if watcher not in self._watchers:
                fresh.unsubscribe(watcher)

    def subscribe(self, callback: OnState, try_to_connect: bool = False) -> None:
        with self._lock:
            self._watchers.append(callback)
            used = self.current
        used.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: OnState) -> None:
        with self._lock:
            if callback in self._watchers:
                self._watchers.remove(callback)
        for channel in self._channels():
            channel.unsubscribe(callback)

    def close(self) -> None:
        self._closed = True
        self._unsubscribe()
        for channel in self._channels():
            channel.close()


def call(renew: Renew) -> None:
    """Renew a channel, unless it was collected in the meantime."""
    if (living := renew()) is not None:
        living()


class _Connecting:
    """Watches the states of a channel on its way to being used, and of the one that is.

    A channel is referred to for as long as it is watched: gRPC's thread that watches it holds a lock while it starts another thread,
    and a garbage collection on that one, which takes the same lock for a channel, would wait forever.
    """

    def __init__(self, owner: RenewedChannel, fresh: grpc.Channel) -> None:
        self._owner = weakref.ref(owner)
        self._fresh: grpc.Channel | None = fresh
        self._used: grpc.Channel | None = owner.current

    def start(self) -> None:
        if (fresh := self._fresh) is not None:
            fresh.subscribe(self._on_fresh, try_to_connect=True)
        if (used := self._used) is not None:
            used.subscribe(self._on_used)

    def stop(self) -> None:
        """Watch nothing any more. Not for finalizers."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            _unwatch(fresh, self._on_fresh)
        used, self._used = self._used, None
        if used is not None:
            _unwatch(used, self._on_used)

    def _on_fresh(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self._take_over()

    def _on_used(self, state: grpc.ChannelConnectivity) -> None:
        used, self._used = self._used, None
        if used is not None:
            _unwatch(used, self._on_used)  # only the state at this moment counts
            if state is not grpc.ChannelConnectivity.READY:
                self._take_over()

    def _take_over(self) -> None:
        owner, fresh = self._owner(), self._fresh
        self.stop()
        if owner is not None and fresh is not None:
            owner.take_over(fresh)


def _unwatch(channel: grpc.Channel, callback: OnState) -> None:
    """gRPC's thread goes on for 0.2 s, and a collection on it that frees its channel would wait for itself: keep it for longer."""
    channel.unsubscribe(callback)
    with contextlib.suppress(RuntimeError):  # no thread is left
        threading.Thread(target=_keep_for_a_second, args=(channel,), name="discovery rotation", daemon=True).start()


def _keep_for_a_second(channel: grpc.Channel) -> None:
    time.sleep(1.0)


def _stop(connecting: list[_Connecting]) -> None:
    """On the thread that follows the files, or that renews."""
    while connecting:
        connecting.pop().stop()


_instances: "weakref.WeakSet[RenewedChannel]" = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: a thread that does not exist there may have held the lock."""
    for channel in list(_instances):
        channel._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
