"""The wrapper around handlers: whatever a handler does, the caller sees what a bare server of grpc.aio would show it, but for the error guard."""

import logging
import os
from dataclasses import replace

import grpc
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as how

from .fuzzed_servers import TRACE, Seen, servers
from .random_scripts import LOST, RAISED, Run, Script, Step, Text, scripts

EXAMPLES = os.environ.get("EXAMPLES")
"""How many random scripts to try; by itself 150, always the same ones."""
THREADS = ("thread", "iterator")
MALFORMED = "malformed"
LATE = "Deadline Exceeded"
CORE = "Internal error from Core"
"""What the client makes of a message that it sends after the call has ended."""


def expected(bare: Seen, run: Run) -> Seen:
    """What the wrapper makes of what a bare server shows."""
    if bare.details.startswith("Unexpected <class 'UnicodeDecodeError'>"):
        return replace(bare, code="INTERNAL", details=MALFORMED)
    if bare.details.startswith("Unexpected <class ") or _lost(run):
        code = "INTERNAL" if run.code is grpc.StatusCode.OK else run.code.name
        return replace(bare, code=code, details=run.details or "internal error")
    return bare


def _lost(run: Run) -> bool:
    """Whether a bare server leaves the caller without a status. Python itself raises GeneratorExit in what nobody needs any more."""
    raised = None if isinstance(run.raised, GeneratorExit) else type(run.raised)
    return any(step.name == "raise" and step.value in LOST and type(RAISED[step.value]()) is raised for step in run.script.steps)


def same(seen: Seen, wanted: Seen, run: Run) -> bool:
    """Of a call that its client leaves, it may have seen more or less."""
    if CORE in (seen.details, wanted.details):
        return True
    if wanted.details == MALFORMED:
        return (seen.code, "codec" in seen.details) == ("INTERNAL", False)
    if any("CLIENT: Received message larger" in each.details for each in (seen, wanted)):
        return True  # the client refuses it, while the server may just be ending the call
    if seen.code == wanted.code in ("CANCELLED", "DEADLINE_EXCEEDED"):
        count = min(len(seen.messages), len(wanted.messages))
        seen, wanted = (replace(each, messages=each.messages[:count], details="", initial=()) for each in (seen, wanted))
    if _lost(run):  # a bare server sends neither a status nor trailing metadata
        return seen.code == "RESOURCE_EXHAUSTED" or replace(seen, trailing=()) == replace(wanted, trailing=())
    return seen == wanted


def check(script: Script, deadline: float = 0.2) -> None:
    """Raises AssertionError for a difference."""
    _, [bare], _ = servers().call(script, deadline, "test.Bare")
    runs, wrapped, records = servers().call(script, deadline, "test.Off", "test.On")
    for (name, traced), run, seen in zip((("test.Off", 0), ("test.On", int(TRACE, 16))), runs, wrapped, strict=True):
        wanted = expected(bare, run)
        if LATE in bare.details and (not script.deadline or script.style in THREADS):
            wanted = bare = seen  # a defect of grpc.aio, whose caller waits for ever
            assert script.deadline or LATE not in seen.details
        assert same(seen, wanted, run), (wanted, seen)
        logged = [record for record in records if name in record.getMessage()]
        assert len(logged) <= 1, [record.getMessage() for record in logged]
        assert wanted == bare or logged or wanted.details == MALFORMED or CORE in (seen.details, wanted.details), wanted
        for record in logged:
            assert (record.name, record.levelno) == ("greeter.discovery.calls.handler", logging.ERROR), record.getMessage()
            assert record.__dict__["trace"] == traced
            assert record.exc_info
        records = [record for record in records if record not in logged]
    if script.style in THREADS:  # asyncio's own: the thread has raised when its caller was just leaving
        records = [record for record in records if "Future exception was never retrieved" not in record.getMessage()]
    records = [record for record in records if record.levelno > logging.WARNING]  # but for malformed requests, once a second
    assert not records, [record.getMessage() for record in records]
    for limit in servers().limits:
        assert (limit._running, limit._bytes, limit._reading) == (0, 0, 0)


def differs(script: Script, deadline: float) -> AssertionError | None:
    """What `check` raises, if anything."""
    try:
        check(script, deadline)
    except AssertionError as error:
        return error
    return None


@how(
    max_examples=int(EXAMPLES or 150),
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a difference may take seconds to show; to shrink it would take minutes
)
@given(scripts())
@example(Script(False, False, "coroutine", (Step("write", Text("a")),)))
@example(Script(False, True, "generator", (Step("raise", "AbortError"),)))
@example(Script(True, True, "coroutine", (Step("raise", "InternalError"),)))
@example(Script(False, False, "thread", (Step("raise", "Severe"),), deadline=True))
@example(Script(False, False, "coroutine", (Step("raise", "Odd"),), deadline=True))
def test_a_caller_sees_the_same_as_from_a_bare_server(script: Script) -> None:
    """And neither a task, a slot nor a line of gRPC's own log is left."""
    for deadline in (0.2, 1.0, 3.0):  # on a busy machine, it may pass before the server begins
        if (error := differs(script, deadline)) is None:
            return
    assert error is None, error
