"""The server on a real port: its service, its health, what it offers to tools, and its end."""

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from {{ cookiecutter.package_name }}.client.api import GreeterClient
from {{ cookiecutter.package_name }}.client.load_generator import Loop, Result
from {{ cookiecutter.package_name }}.settings import Client, Settings

from .processes import DEADLINE, Process, servers

QUICK = {"SERVER__DRAIN__WAIT": "300ms", "SERVER__DRAIN__GRACE": "5s"}


def test_it_greets_and_says_who_it_is() -> None:
    """One call and one stream."""
    with servers("a") as running, grpc.insecure_channel(running["a"][1]) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(channel)
        answer = stub.Greet(greeter_pb2.GreetRequest(name="Ada"), timeout=DEADLINE)
        assert (answer.message, answer.served_by) == ("Hello, Ada!", "a")
        request = greeter_pb2.WatchGreetingsRequest(count=3)
        request.interval.FromMilliseconds(1)
        assert [greeting.served_by for greeting in stub.WatchGreetings(request, timeout=DEADLINE)] == ["a"] * 3
        request.interval.FromMilliseconds(0)
        with pytest.raises(grpc.RpcError) as error:
            list(stub.WatchGreetings(request, timeout=DEADLINE))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_reflection_and_channelz_are_there_and_can_be_switched_off() -> None:
    """Health per service and overall; the two others by setting."""
    for offered in (True, False):
        switches = {"SERVER__REFLECTION": str(offered), "SERVER__CHANNELZ": str(offered)}
        with servers("a", **switches) as running, grpc.insecure_channel(running["a"][1]) as channel:
            for name in ("", "greeter.v1.GreeterService"):
                health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE)
                assert health.status == health_pb2.HealthCheckResponse.SERVING
            ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask, timeout=DEADLINE)
            channelz = channelz_pb2_grpc.ChannelzStub(channel)
            if offered:
                assert "greeter.v1.GreeterService" in {service.name for service in next(reflected).list_services_response.service}
                assert channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE).server
                continue
            with pytest.raises(grpc.RpcError) as error:
                next(reflected)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.RpcError) as error:
                channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_said_in_a_sentence() -> None:
    """Port reuse is off: a second server would silently take half of the calls."""
    with servers("a") as running:
        port = running["a"][1].rpartition(":")[2]
        second = Process("server", SERVER__HOST="127.0.0.1", SERVER__PORT=port, GRPC_VERBOSITY="NONE")
        assert second.ended() == 1
        assert f"cannot listen on SERVER__HOST=127.0.0.1 with SERVER__PORT={port}" in second.lines[-1]
        assert not any("Traceback" in line for line in second.lines)


def test_too_large_a_message_and_too_many_calls_are_refused() -> None:
    """By the limits of the settings, with the code that says so."""
    limits = {"SERVER__MAX_MESSAGE_BYTES": "1000", "SERVER__MAX_CONCURRENT_RPCS": "1"}
    with servers("a", **limits) as running, grpc.insecure_channel(running["a"][1]) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Greet(greeter_pb2.GreetRequest(name="x" * 2000), timeout=DEADLINE)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream = stub.WatchGreetings(greeter_pb2.WatchGreetingsRequest(), timeout=DEADLINE)
        next(stream)
        with pytest.raises(grpc.RpcError) as error:
            stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Its health is not counted in: who is busy is not to be restarted.
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        running["a"][0].wait_for(r"1 calls at one time \(SERVER__MAX_CONCURRENT_RPCS\): refusing more")
        stream.cancel()
        stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE, wait_for_ready=True)


def test_too_much_metadata_is_refused_and_the_connection_goes_on() -> None:
    """By the limit of the settings."""
    with servers("a", SERVER__MAX_METADATA_BYTES="1000") as running, grpc.insecure_channel(running["a"][1]) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE, metadata=(("heavy", "x" * 3000),))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE).served_by == "a"


def test_connections_above_the_limit_are_closed_at_once() -> None:
    """And those there are go on."""
    with servers("a", SERVER__MAX_CONNECTIONS="2") as running, contextlib.ExitStack() as stack:
        host, _, port = running["a"][1].rpartition(":")
        with grpc.insecure_channel(running["a"][1]) as channel:
            stub = greeter_pb2_grpc.GreeterServiceStub(channel)
            stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE)
            made = [stack.enter_context(socket.create_connection((host, int(port)), DEADLINE)) for _ in range(5)]
            ends = [connection.recv(1) for connection in made]  # a server speaks first, unless it closes
            assert ends.count(b"") == 4
            assert stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE).served_by == "a"


def test_sigterm_says_not_serving_serves_on_and_ends_with_status_0() -> None:
    """In this order: health first, then the wait, then the end. A stream may go on until the grace is over."""
    with servers("a", SERVER__DRAIN__WAIT="1s", SERVER__DRAIN__GRACE="1s") as running:
        process, address = running["a"]
        with grpc.insecure_channel(address) as channel:
            stub = greeter_pb2_grpc.GreeterServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            request = greeter_pb2.WatchGreetingsRequest()
            request.interval.FromMilliseconds(50)
            stream = stub.WatchGreetings(request, timeout=DEADLINE)
            next(stream)
            process.send(signal.SIGTERM)
            assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert stub.Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE).served_by == "a"
            with pytest.raises(grpc.RpcError):
                for _ in stream:
                    pass
        assert process.ended() == 0
        assert "stopped" in process.lines[-1]


def test_a_second_sigterm_ends_it_at_once() -> None:
    """Whoever sends two does not want to wait ten minutes."""
    with servers("a", SERVER__DRAIN__WAIT="10m", SERVER__DRAIN__GRACE="10m", SERVER__DRAIN__TERMINATION_GRACE="1h") as running:
        process, _ = running["a"]
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        process.send(signal.SIGTERM)
        assert process.ended() == 0


async def test_sigterm_under_load_loses_no_call_without_any_retry() -> None:
    """Three servers through discovery, one drained; calls at a steady rate all the while."""
    # Long enough for a client to hear of it on a busy machine too: what is sent after the wait is lost.
    with servers("a", "b", "c", SERVER__DRAIN__WAIT="2s") as running:
        target = "static:///" + ",".join(address for _, address in running.values())
        wanted = {"target": target, "rate": 200, "retry": {"enabled": False}, "timeout": DEADLINE}
        settings = Settings(client=Client.model_validate(wanted))
        results: list[Result] = []
        answered, stopping = asyncio.Event(), asyncio.Event()

        def told(result: Result) -> None:
            results.append(result)
            answered.set()

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    answered.clear()
                    await answered.wait()

        async with GreeterClient.connect(settings) as greeter:
            calling = asyncio.create_task(Loop(greeter, settings.client, told).run(stopping))
            await until(lambda: len({result.server for result in results}) == 3)
            running["a"][0].send(signal.SIGTERM)
            assert await asyncio.to_thread(running["a"][0].ended) == 0
            after = len(results)
            await until(lambda: len(results) >= after + 100)
            stopping.set()
            await calling
    assert Counter(result.code for result in results).keys() == {"OK"}
    assert {result.server for result in results[after:]} == {"b", "c"}
