"""The limits of what is in progress at once: what waits, for whom, and what is rejected."""

import asyncio

import pytest

from greeter.discovery.calls import concurrency_limit
from greeter.discovery.calls.concurrency_limit import READERS, ConcurrencyLimit

from .processes import DEADLINE


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_above_the_limit_are_rejected_until_one_ends() -> None:
    """With the limit in the reason; None is no limit."""
    limit = ConcurrencyLimit(1, None, "calls (SETTING)")
    assert limit.enter() == ""
    assert limit.enter() == "concurrency limit reached: 1 calls (SETTING)"
    limit.leave()
    assert limit.enter() == ""
    assert {ConcurrencyLimit().enter() for _ in range(5)} == {""}


async def test_so_many_requests_are_received_at_once_and_the_next_when_one_has_been() -> None:
    """gRPC holds all of a message that is being received, so their number bounds the memory."""
    limit = ConcurrencyLimit()
    generations = [limit.begin() for _ in range(READERS)]
    assert all(generations)
    assert limit.begin() == 0
    turn = asyncio.create_task(limit.turn())
    await settled()
    assert not turn.done()
    limit.received(generations[0])
    assert await asyncio.wait_for(turn, DEADLINE) == generations[1]
    assert limit.begin() == 0


async def test_slow_senders_do_not_keep_others_waiting_for_longer_than_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not count any more, and their end makes no room for a second time."""
    monkeypatch.setattr(concurrency_limit, "PATIENCE", 0.01)
    limit = ConcurrencyLimit()
    slow = [limit.begin() for _ in range(READERS)]
    generation = await asyncio.wait_for(limit.turn(), DEADLINE)
    assert generation not in slow
    for old in slow:
        limit.received(old)
    assert sum(limit.begin() == generation for _ in range(READERS)) == READERS - 1


async def test_a_request_waits_until_it_fits_among_those_in_flight() -> None:
    """One that is larger than the limit is admitted alone."""
    limit = ConcurrencyLimit(None, 100)
    assert await limit.hold(60) == ""
    waiting = asyncio.create_task(limit.hold(60))
    await settled()
    assert not waiting.done()
    limit.release(60)
    assert await asyncio.wait_for(waiting, DEADLINE) == ""
    limit.release(60)
    assert await limit.hold(1000) == ""


async def test_a_request_that_does_not_fit_in_time_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not counted."""
    monkeypatch.setattr(concurrency_limit, "PATIENCE", 0.01)
    limit = ConcurrencyLimit(None, 100, "calls", "bytes (SETTING)")
    assert await limit.hold(60) == ""
    assert await limit.hold(60) == "limit of requests in flight reached: 100 bytes (SETTING)"
    limit.release(60)
    assert await limit.hold(100) == ""


async def test_idle_is_reached_when_the_last_call_has_ended() -> None:
    """Or after the timeout."""
    limit = ConcurrencyLimit()
    limit.enter()
    await limit.idle(0.01)
    waiting = asyncio.create_task(limit.idle(DEADLINE))
    await settled()
    assert not waiting.done()
    limit.leave()
    await asyncio.wait_for(waiting, DEADLINE)
