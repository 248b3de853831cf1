"""The end of a server: nobody loses a call, resources outlive the calls that use them, and who insists is obeyed."""

import asyncio
import signal

import grpc
import pytest

from greeter.client.api import GreeterClient
from greeter.client.channel import Retry

from .calls import NOT_SERVING, SERVING, Load, greet, watch, watch_health
from .processes import DEADLINE, Process, servers


def test_sigterm_says_not_serving_serves_on_and_ends_with_status_0() -> None:
    """In this order: health first, then the wait, then the end."""
    with servers("a", SERVER__DRAIN__WAIT="1s", SERVER__DRAIN__GRACE="1s") as running:
        process, address = running["a"]
        with grpc.insecure_channel(address) as channel:
            health = watch_health(channel)
            assert next(health) == SERVING
            stream = watch(channel, milliseconds=50)
            next(stream)
            process.send(signal.SIGTERM)
            assert next(health) == NOT_SERVING
            assert greet(channel) == "a"
            with pytest.raises(grpc.RpcError):
                for _ in stream:
                    pass
        assert process.ended() == 0
        assert "stopped" in process.lines[-1]


@pytest.mark.parametrize("waiting", ["draining", "grace"])
def test_a_second_sigterm_ends_it_at_once(waiting: str) -> None:
    """During the wait and during the grace period; with the status that a shell reports."""
    wait = "10m" if waiting == "draining" else "0s"
    drain = {"SERVER__DRAIN__WAIT": wait, "SERVER__DRAIN__GRACE": "10m", "SERVER__DRAIN__TERMINATION_GRACE": "1h"}
    with servers("a", **drain) as running, grpc.insecure_channel(running["a"][1]) as channel:
        process, _ = running["a"]
        stream = watch(channel, milliseconds=3_600_000)
        next(stream)
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        process.send(signal.SIGTERM)
        assert process.ended() == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError):
            for _ in stream:
                pass


def test_streams_without_end_end_with_the_drain_on_a_status_to_call_again() -> None:
    """The example's stream and health watches: the server does not wait for the grace period because of them."""
    drain = {"SERVER__DRAIN__WAIT": "0s", "SERVER__DRAIN__GRACE": "10m", "SERVER__DRAIN__TERMINATION_GRACE": "1h"}
    with servers("a", **drain) as running, grpc.insecure_channel(running["a"][1]) as channel:
        process, _ = running["a"]
        stream, health = watch(channel, milliseconds=3_600_000), watch_health(channel)
        next(stream)
        assert next(health) == SERVING
        process.send(signal.SIGTERM)
        assert next(health) == NOT_SERVING
        for ended in (stream, health):
            with pytest.raises(grpc.RpcError) as error:
                next(ended)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert process.ended() == 0


async def test_sigterm_under_load_loses_no_call_without_any_retry() -> None:
    """Three servers through discovery, one drained; calls at a steady rate all the while."""
    # Long enough for a client to hear of it on a busy machine too: what is sent after the wait is lost.
    with servers("a", "b", "c", SERVER__DRAIN__WAIT="2s", SERVER__DRAIN__GRACE="2s") as running:
        target = "static:///" + ",".join(address for _, address in running.values())
        async with GreeterClient(target, retry=Retry(attempts=1), timeout=DEADLINE) as client, Load(client) as load:
            await load.until(lambda results: len({result.server for result in results}) == 3)
            running["a"][0].send(signal.SIGTERM)
            assert await asyncio.to_thread(running["a"][0].ended) == 0
            after = len(load.results)
            await load.until(lambda results: len(results) >= after + 100)
    assert {result.code for result in load.results} == {"OK"}
    assert {result.server for result in load.results[after:]} == {"b", "c"}


WITH_A_RESOURCE = """
from contextlib import asynccontextmanager
from greeter.server import __main__, servicer

original = servicer.services

@asynccontextmanager
async def services(settings):
    print("opened", flush=True)
    try:
        async with original(settings) as found:
            yield found
    finally:
        print("closed", flush=True)

servicer.services = services
__main__.main()
"""


def test_a_resource_is_open_before_the_first_call_and_closed_after_the_drain() -> None:
    """What `services` opens before its `yield` outlives every call."""
    with servers("a", code=WITH_A_RESOURCE, SERVER__DRAIN__WAIT="0s", SERVER__DRAIN__GRACE="20s") as running:
        process, address = running["a"]
        with grpc.insecure_channel(address) as channel:
            stream = watch(channel, count=100, milliseconds=10)
            next(stream)
            process.send(signal.SIGTERM)
            assert len(list(stream)) == 99
        assert process.ended() == 0
    words = ("opened", "serving as", "stopped", "closed")
    order = [next(number for number, line in enumerate(process.lines) if word in line) for word in words]
    assert order == sorted(order)


def test_a_resource_is_closed_when_the_server_cannot_start() -> None:
    """A port that is taken leaves no connection to a database behind."""
    with servers("a") as running:
        port = running["a"][1].rpartition(":")[2]
        settings = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": port, "GRPC_VERBOSITY": "NONE"}
        with Process("server", WITH_A_RESOURCE, **settings) as second:
            assert second.ended() == 1
            second.wait_for("closed")
            assert not any("Traceback" in line for line in second.lines)
