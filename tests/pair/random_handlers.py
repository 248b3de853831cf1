"""Handlers of every kind and style that follow a script (random_scripts.py)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from .random_scripts import RAISED, Run, Step, Text


def parse(raw: bytes) -> Text:
    return Text(raw.decode())


def serialize(message: Text) -> bytes:
    return message.text.encode()


RUNS: dict[str, Run] = {}


def _run(context: Any) -> Run:
    return RUNS[dict(context.invocation_metadata())["run"]]


def _seen(context: Any, status: str = "") -> Text:
    """What the context tells, which is the same on every server. A thread may outlive its call, whose peer is then in memory that gRPC
    has freed."""
    told = [(key, value) for key, value in context.invocation_metadata() if key == "own"]
    return Text(f"{status} {told}")


async def _perform(step: Step, context: Any, run: Run, received: AsyncIterator[Text] | None) -> Any:
    """The message that this step sends, if any."""
    value = step.value
    match step.name:
        case "say" | "return":
            return value
        case "see":
            return _seen(
                context, f"{context.code()} {context.details()!r} {context.peer()[:4]} {context.time_remaining() is None}"
            )
        case "write":
            await context.write(value)
        case "receive":
            return Text("none") if received is None else await anext(received, Text("end"))
        case "read":
            read = await context.read()
            return Text("end") if read is grpc.aio.EOF else read
        case "impatient":
            async with asyncio.timeout(0.001):
                return Text(str(await context.read()))
        case "raise":
            raise RAISED[value]()
        case "abort":
            await context.abort(*value)
        case "initial":
            await context.send_initial_metadata(value)
        case "hang":
            run.hanging.set()
            await asyncio.Event().wait()
        case "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case "spawn":
            run.spawned.add(asyncio.create_task(_afterwards(context, run)))
        case _:
            _set(step, context, run)
    return None


def _set(step: Step, context: Any, run: Run) -> None:
    getattr(context, step.name)(step.value)
    if step.name != "set_trailing_metadata":
        setattr(run, step.name.removeprefix("set_"), step.value)


async def _afterwards(context: Any, run: Run) -> None:
    """Use the context of a call that has ended."""
    await run.over.wait()
    for late in (
        context.write(Text("late")),
        context.send_initial_metadata(()),
        context.abort(grpc.StatusCode.ABORTED, "late"),
        context.read(),
    ):
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.01):
                await late


async def _follow(request: Any, context: Any) -> AsyncIterator[Any]:
    """The script as an asynchronous generator of what it sends."""
    run = _run(context)
    received = request if run.script.requests and run.script.style == "generator" else None
    try:
        if not run.script.requests and request.text:
            yield request
        for step in run.script.steps:
            try:
                sent = await _perform(step, context, run, received)
            except step.caught:
                sent = Text("caught")
            if step.name == "return":
                return
            if sent is not None:
                yield sent
    except BaseException as error:
        run.raised = error
        raise
    finally:
        run.left = True


def _follow_on_a_thread(request: Any, context: Any) -> Iterator[Any]:
    run = _run(context)
    try:
        if not run.script.requests and request.text:
            yield request
        for step in run.script.steps:
            sent = None
            try:
                match step.name:
                    case "say" | "return":
                        sent = step.value
                    case "see":
                        sent = _seen(context)
                    case "receive":
                        sent = next(request, Text("end")) if run.script.requests else Text("none")
                    case "raise":
                        raise RAISED[step.value]()
                    case "abort":
                        context.abort(*step.value)
                    case "initial":
                        context.send_initial_metadata(step.value)
                    case "hang":
                        LOOP[0].call_soon_threadsafe(run.hanging.set)
                        run.ended.wait(30)
                    case "set_code" | "set_details" | "set_trailing_metadata":
                        _set(step, context, run)
            except step.caught:
                sent = Text("caught")
            if step.name == "return":
                return
            if sent is not None:
                yield sent
    except BaseException as error:
        run.raised = error
        raise
    finally:
        run.left = True


LOOP: list[asyncio.AbstractEventLoop] = []
"""The loop of all of the servers."""


async def _one(request: Any, context: Any) -> Any:
    """The last message is the response; a script that ends by `return` answers with that step's value."""
    response: Any = Text("")
    script = _run(context).script
    async for message in _follow(request, context):
        response = message
    if script.steps and script.steps[-1].name == "return":
        return script.steps[-1].value
    return response


async def _written(request: Any, context: Any) -> Any:
    async for message in _follow(request, context):
        await context.write(message)


def _one_on_a_thread(request: Any, context: Any) -> Any:
    response: Any = Text("")
    script = _run(context).script
    for message in _follow_on_a_thread(request, context):
        response = message
    if script.steps and script.steps[-1].name == "return":
        return script.steps[-1].value
    return response


def _generated(request: Any, context: Any) -> Any:
    return _follow_on_a_thread(request, context)


_HANDLERS: dict[tuple[bool, str], Any] = {
    (False, "coroutine"): _one,
    (False, "generator"): _one,  # with requests by their iterator
    (False, "thread"): _one_on_a_thread,
    (True, "coroutine"): _written,
    (True, "generator"): _follow,
    (True, "thread"): _follow_on_a_thread,
    (True, "iterator"): _generated,
}


def register(service: str, server: Any) -> None:
    """Every kind in every style, as generated code registers them."""
    handlers = {}
    for (responses, style), behavior in _HANDLERS.items():
        for requests in (False, True):
            kind = f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}"
            handler = getattr(grpc, f"{kind}_rpc_method_handler")(behavior, parse, serialize)
            handlers[f"{kind}_{style}"] = handler
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
