"""What a resolver promises for every source alike; the first line of each docstring is the promise as docs/ state it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from discovery import insecure_channel
from discovery.config import Empty
from discovery.testing import Backend

from ..servers import DEADLINE, share, streaming, unary, until
from .registry import Follower, Registry, places

Follow = Callable[..., Follower]


@pytest.fixture
def follow(registry: Registry) -> Iterator[Follow]:
    """Opens followers, and closes them."""
    opened: list[Follower] = []

    def begin(*arguments: object, **keywords: object) -> Follower:
        opened.append(Follower(registry, *arguments, **keywords))  # type: ignore[arg-type]
        return opened[-1]

    yield begin
    for follower in opened:
        follower.close()


def test_initial(registry: Registry, follow: Follow) -> None:
    """The first set is complete."""
    registry.set(places(1, 2, 3))
    assert follow().next() == set(places(1, 2, 3))


def test_changes(registry: Registry, follow: Follow) -> None:
    """Add, remove, replace all: each arrives."""
    registry.set(places(1))
    follower = follow()
    for numbers in [(1,), (1, 2), (1, 2, 3), (3, 2), (2,), (4, 5, 6), (2, 4)]:
        registry.set(places(*numbers))
        follower.until(places(*numbers))


def test_burst(registry: Registry, follow: Follow) -> None:
    """A burst of changes becomes few sets; the last one is the final state."""
    registry.set(places(0))
    follower = follow(0, replace(registry.config(), coalesce=0.5))
    follower.until(places(0))
    for number in range(1, 40):
        registry.set(places(0, number))
    registry.set(places(1, 2, 3))
    follower.until(places(1, 2, 3))
    assert len(follower.seen) < 20


def test_equal(registry: Registry, follow: Follow) -> None:
    """An equal set is not passed on again."""
    registry.set(places(1, 2))
    follower = follow()
    follower.until(places(1, 2))
    synced = follower.status.synced_at
    registry.rewrite()
    until(lambda: follower.status.synced_at != synced)
    registry.set(places(1))
    follower.until(places(1))
    assert follower.seen == [set(places(1, 2)), set(places(1))]


@pytest.mark.parametrize("policy", ["keep", "fail", "hold"])
def test_empty(registry: Registry, follow: Follow, policy: str) -> None:
    """An empty set is ignored, accepted, or held for a time, as the empty policy says."""
    registry.set(places(1))
    empty = Empty.parse("hold:0.2" if policy == "hold" else policy)
    follower = follow(0, replace(registry.config(), empty=empty))
    follower.until(places(1))
    registry.set([])
    if policy != "fail":
        until(lambda: follower.status.suspicious is not None or len(follower.endpoints()) == 0)
    if policy == "keep":
        assert follower.quiet
    else:
        follower.until([])
    registry.set(places(2))
    follower.until(places(2))
    assert follower.status.suspicious is None


def test_down_at_start(registry: Registry, follow: Follow) -> None:
    """A registry that is down at the start is reported, and read once it is up."""
    registry.set(places(1))
    registry.down()
    follower = follow()
    follower.until_stale()
    assert follower.status.state == "connecting"
    assert follower.status.last_error
    registry.up()
    follower.until(places(1))
    until(lambda: follower.status.state == "synced" and follower.status.last_error is None)


def test_down_for_a_while(registry: Registry, follow: Follow) -> None:
    """While a registry is down, the last set stays in use; changes made meanwhile are seen after its return."""
    registry.set(places(1, 2))
    follower = follow()
    follower.until(places(1, 2))
    registry.down()
    registry.set(places(2, 3))
    registry.set(places(3, 4))
    follower.until_stale()
    assert follower.status.last_error
    assert follower.quiet
    assert {endpoint[:2] for endpoint in follower.endpoints()} == set(places(1, 2))
    registry.up()
    follower.until(places(3, 4))
    assert follower.seen == [set(places(1, 2)), set(places(3, 4))]


def test_blips(registry: Registry, follow: Follow) -> None:
    """A connection that breaks repeatedly loses no change."""
    registry.set(places(0))
    follower = follow()
    for number in range(1, 6):
        registry.down()
        registry.up()
        registry.set(places(number))
        follower.until(places(number))


def test_silent(registry: Registry, follow: Follow) -> None:
    """A watch that has gone silent is detected and restarted."""
    registry.set(places(1))
    follower = follow(0, registry.config(impatient=True))
    follower.until(places(1))
    registry.hang()
    registry.set(places(2))
    until(lambda: follower.status.state == "stale")
    assert follower.quiet
    registry.thaw()
    follower.until(places(2))


def test_malformed(registry: Registry, follow: Follow) -> None:
    """A malformed entry affects only itself, and is reported."""
    registry.set(places(1, 2))
    word = registry.spoil()
    follower = follow()
    follower.until(places(1, 2))
    assert [problem for problem in follower.status.problems if word in problem]
    registry.set(places(3))
    follower.until(places(3))


def test_many(registry: Registry, follow: Follow) -> None:
    """A thousand endpoints, and one that changes among them."""
    registry.set(places(*range(1000)))
    follower = follow()
    follower.until(places(*range(1000)))
    registry.set(places(*range(1, 1001)))
    follower.until(places(*range(1, 1001)))


def test_close(registry: Registry, follow: Follow) -> None:
    """Closing ends a watch in progress, a silent one, and one that is in backoff; no thread remains."""
    registry.set(places(1))
    watching = follow()
    watching.until(places(1))
    watching.close()
    assert watching.status.state == "closed"
    if "test_silent" not in registry.lacks:
        silent = follow(0)
        silent.until(places(1))
        registry.hang()
        silent.close()
        registry.thaw()
    if "test_down_at_start" not in registry.lacks:
        registry.down()
        waiting = follow()
        waiting.until_stale()
        waiting.close()
        registry.up()


def test_two_targets(registry: Registry, follow: Follow) -> None:
    """Two targets on one registry are independent."""
    registry.set(places(1), 0)
    registry.set(places(2), 1)
    one, two = follow(0), follow(1)
    one.until(places(1))
    two.until(places(2))
    registry.set(places(3), 1)
    two.until(places(3))
    registry.set(places(4), 0)
    one.until(places(4))
    assert two.quiet
    two.close()
    registry.set(places(5), 0)
    one.until(places(5))


def test_traffic(registry: Registry) -> None:
    """Calls are balanced evenly over the set (within 25 %); a stream survives the removal of its server from the set."""
    running = registry.servers("a", "b", "c")
    try:
        at = {name: place for name, (_, place) in running.items()}
        registry.set([at["a"], at["b"]])
        with insecure_channel(registry.target(), config=registry.config()) as channel:
            until(lambda: set(share(channel, 20)) == {"a", "b"})
            assert_even(share(channel), 2)
            stream = streaming(channel)(b"", timeout=DEADLINE)
            name = next(stream).decode()
            other = "b" if name == "a" else "a"
            if "test_changes" in registry.lacks:
                return
            registry.set([at[other], at["c"]])
            until(lambda: set(share(channel, 20)) == {other, "c"})
            assert_even(share(channel), 2)
            assert next(stream).decode() == name
            registry.set(at.values())
            until(lambda: len(share(channel, 30)) == 3)
            assert_even(share(channel), 3)
            stream.cancel()
    finally:
        for server, _ in running.values():
            server.stop()


def assert_even(found: Counter[str], count: int) -> None:
    """Round robin, within 25 % of an equal share."""
    equal = found.total() / count
    assert len(found) == count
    assert all(abs(number - equal) <= 0.25 * equal for number in found.values()), found


def test_no_endpoint(registry: Registry) -> None:
    """With no endpoint, a call fails immediately with the reason; one that waits for ready succeeds when an endpoint appears."""
    running = registry.servers("a")
    try:
        registry.set([])
        with insecure_channel(registry.target(), config=registry.config()) as channel:
            call = unary(channel)
            waiting = call.future(b"", wait_for_ready=True, timeout=DEADLINE)
            if "test_down_at_start" not in registry.lacks or registry.name == "manual":
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=DEADLINE)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            registry.set([running["a"][1]])
            assert waiting.result(DEADLINE) == b"a"
    finally:
        running["a"][0].stop()


POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
DEFAULT: dict[str, str] = {}
SERVICE, METHOD = {"service": "test.Echo"}, {"service": "test.Echo", "method": "Who"}


@pytest.mark.parametrize(
    ("retried", "exempted", "attempts"),
    [
        ([DEFAULT], [], (3, 3)),
        ([METHOD], [], (3, 1)),
        ([DEFAULT], [METHOD], (1, 3)),
        ([SERVICE], [METHOD], (1, 3)),
        ([DEFAULT], [SERVICE], (1, 1)),
        ([DEFAULT, METHOD], [SERVICE], (3, 1)),
        ([{"service": "", "method": ""}], [{"service": "other"}, {**SERVICE, "method": "Who"}], (1, 3)),
    ],
)
def test_service_config(registry: Registry, retried: list[object], exempted: list[object], attempts: tuple[int, int]) -> None:
    """A service config means what it means on gRPC's own channel: the most specific entry counts, and one without a retry policy exempts."""
    config = {"methodConfig": [{"name": retried, "retryPolicy": POLICY}, {"name": exempted}]}
    options = [("grpc.service_config", json.dumps(config))]
    [(server, place)] = registry.servers("a").values()
    try:
        server.fail(grpc.StatusCode.UNAVAILABLE)
        registry.set([place])
        with (
            insecure_channel(registry.target(), options, config=registry.config()) as ours,
            grpc.insecure_channel("{}:{}".format(*place), options) as grpcs,
        ):
            for channel in (ours, grpcs):
                assert (attempts_of(server, unary(channel)), attempts_of(server, streaming(channel))) == attempts
    finally:
        server.stop()


def attempts_of(server: Backend, method: Callable[..., Any]) -> int:
    """How often a call that fails has reached the server."""
    before = server.calls
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        list(method(b"", timeout=DEADLINE, wait_for_ready=True))
    return server.calls - before
