"""`rotation.py` for grpc.aio: the same on the event loop instead of threads."""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from .certificates import CertificateFiles
from .rotation import Method, Renew, Renewed, call

_RECHECK = 10.0
"""Seconds after which a channel that cannot connect is dropped if its owner was forgotten."""


class _Call(Method):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._owner.follow()
        channel, method = self._bound
        begun = method(*args, **kwargs)
        running = [channel]  # an interceptor may begin the call later, which fails once the channel is collected
        begun.add_done_callback(lambda _: running.clear())
        return begun


class RenewedChannel(Renewed[grpc.aio.Channel]):
    """`grpc.aio.secure_channel` with files in place of credentials. It watches them from its first use on, because it may have no
    event loop before."""

    _unary = _stream = _Call

    def __init__(self, files: CertificateFiles, open: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]) -> None:
        super().__init__(files, open)
        self._following = False
        self._connecting: asyncio.Task[None] | None = None
        self._replaced = asyncio.Event()

    def follow(self) -> None:
        """Watch the files from now on."""
        if not self._following:
            with contextlib.suppress(RuntimeError):  # no loop runs, or no thread can be started: the next use tries it again
                self._watch(functools.partial(_call_on, asyncio.get_running_loop()))
                self._following = True

    def _renew(self) -> None:
        credentials = self._files.credentials
        if self._closed or credentials is self._opened_with:
            return
        self._opened_with = credentials
        if self._connecting is not None:
            self._connecting.cancel()
        self._fresh = fresh = self._open(credentials)
        if self.current.get_state() is grpc.ChannelConnectivity.READY:
            self._connecting = asyncio.get_running_loop().create_task(_connect(weakref.ref(self), fresh))
        else:
            self.take_over(fresh)

    def take_over(self, fresh: grpc.aio.Channel) -> None:
        """Use `fresh` from now on."""
        self._replace(fresh)
        self._rebind()
        self._replaced.set()
        self._replaced = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """A change to another channel ends the wait too."""
        self.follow()
        channel = self.current
        waiting = {
            asyncio.ensure_future(channel.wait_for_state_change(last_observed_state)),
            asyncio.ensure_future(self._replaced.wait()),
        }
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        for task in done:
            if channel is self.current:
                task.result()  # raises if this channel was closed

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        self._unsubscribe()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        await asyncio.gather(*(channel.close(grace) for channel in self._channels()))


def _call_on(loop: asyncio.AbstractEventLoop, renew: Renew) -> None:
    """On the thread that watches the files."""
    with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
        loop.call_soon_threadsafe(call, renew)


async def _connect(owner: "weakref.ref[RenewedChannel]", fresh: grpc.aio.Channel) -> None:
    """Let `fresh` be used once it is connected, unless its owner was forgotten by then."""
    while (state := fresh.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fresh.wait_for_state_change(state), _RECHECK)
        if owner() is None:
            return
    living = owner()
    if living is not None:
        living.take_over(fresh)
