"""Handlers that are not async, as async ones that run them on a thread of the event loop's executor, as grpc.aio does."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .context import OF_A_CALL_IN_PROGRESS, CallContext

_END = object()


def on_threads(function: Callable[..., Any], handler: Any) -> Callable[..., Any]:
    """`function` is one of `handler`'s, with one response or an iterator of them."""

    def arguments(request: Any, context: CallContext) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return _blocking(request, loop) if handler.request_streaming else request, _ThreadContext(context, loop)

    async def one(request: Any, context: CallContext) -> Any:
        return await asyncio.to_thread(_call, function, *arguments(request, context))

    async def several(request: Any, context: CallContext) -> AsyncIterator[Any]:
        responses = iter(await asyncio.to_thread(_call, function, *arguments(request, context)))
        while (response := await asyncio.to_thread(_call, next, responses, _END)) is not _END:
            yield response

    return several if handler.response_streaming else one


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error  # a future cannot hold one, and would never be done


def _blocking(requests: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    while (request := asyncio.run_coroutine_threadsafe(anext(requests, _END), loop).result()) is not _END:
        yield request


_ON_THE_LOOP = OF_A_CALL_IN_PROGRESS | {"abort", "abort_with_status", "send_initial_metadata"}


class _ThreadContext:
    """A call's context for a handler on a thread. What is a coroutine, or needs the call to be in progress, runs on the event loop."""

    def __init__(self, context: CallContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        if name not in _ON_THE_LOOP:
            return getattr(self._context, name)

        async def called(*arguments: Any, **more: Any) -> Any:
            found = getattr(self._context, name)(*arguments, **more)
            return await found if inspect.isawaitable(found) else found

        return lambda *arguments, **more: asyncio.run_coroutine_threadsafe(called(*arguments, **more), self._loop).result()

    def add_callback(self, callback: Callable[[], object]) -> bool:
        self._context.add_done_callback(lambda _: callback())
        return True
