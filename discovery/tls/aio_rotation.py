"""`rotation.py` for grpc.aio: the same generations of channels, on the event loop instead of threads."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from .certificates import CertificateFiles
from .rotation import Generation, Generations

Open = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]


class RenewedChannel(grpc.aio.Channel):
    """`grpc.aio.secure_channel` with files in place of credentials. It watches them from its first use on, because it may have no
    event loop before."""

    def __init__(self, files: CertificateFiles, open: Open) -> None:
        self._files = files
        self._open = open
        self._opened_with = files.credentials
        self._closing: set[asyncio.Task[None]] = set()
        self._taking_over: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Callable[[], object] = lambda: None
        self._replaced = asyncio.Event()
        self._generations = Generations(open(self._opened_with), self._end)

    def used(self) -> Generations[grpc.aio.Channel]:
        """The generations, watched from now on."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            renew = weakref.WeakMethod(self._renew)
            loop = self._loop
            self._unsubscribe = weakref.finalize(self, self._files.subscribe(lambda credentials: _tell(loop, renew)))
            self._renew()
        return self._generations

    def _renew(self) -> None:
        """Open another channel if the files are new. It is used once it is connected, or immediately if the one in use is not
        connected."""
        credentials = self._files.credentials
        if credentials is self._opened_with or self._loop is None:
            return
        self._opened_with = credentials
        if self._taking_over is not None:
            self._taking_over.cancel()
        fresh = self._open(credentials)
        if self._generations.current.channel.get_state() is not grpc.ChannelConnectivity.READY:
            self._replace(fresh)
            return
        self._taking_over = self._loop.create_task(self._take_over(fresh))

    async def _take_over(self, fresh: grpc.aio.Channel) -> None:
        try:
            await fresh.channel_ready()
        except asyncio.CancelledError:
            await fresh.close()
            raise
        self._replace(fresh)

    def _replace(self, fresh: grpc.aio.Channel) -> None:
        self._generations.replace(fresh)
        self._replaced.set()
        self._replaced = asyncio.Event()

    def _end(self, channel: grpc.aio.Channel) -> None:
        """Close a channel whose last call has ended."""
        task = asyncio.get_running_loop().create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._generations.current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """A change to another channel ends the wait too."""
        channel = self.used().current.channel
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
            if channel is self._generations.current.channel:
                task.result()  # raises if this channel was closed

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        self._unsubscribe()
        if self._taking_over is not None:
            self._taking_over.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._taking_over
        await asyncio.gather(*(channel.close(grace) for channel in self._generations.all()), *self._closing)

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def _tell(loop: asyncio.AbstractEventLoop, renew: "weakref.WeakMethod[Callable[[], None]]") -> None:
    """On the thread that watches the files."""

    def now() -> None:
        living = renew()
        if living is not None:
            living()

    with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
        loop.call_soon_threadsafe(now)


class _Method:
    """A method of any kind. The callable of gRPC's channel is created once for each channel."""

    def __init__(self, owner: RenewedChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._owner = owner
        self._made = (kind, args, kwargs)
        self._generation: Generation[grpc.aio.Channel] | None = None
        self._inner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generations = self._owner.used()
        generation = generations.enter()
        try:
            if generation is not self._generation:
                kind, made_args, made_kwargs = self._made
                self._inner = getattr(generation.channel, kind)(*made_args, **made_kwargs)
                self._generation = generation
            call = self._inner(*args, **kwargs)
        except BaseException:
            generations.leave(generation)
            raise
        call.add_done_callback(lambda _: generations.leave(generation))
        return call
