"""The load generator as a process: its health, its log, and its end."""

import json
import signal
import socket

import grpc
import pytest

from .calls import NOT_SERVING, SERVING, health, watch_health
from .processes import Process, load_generator, refused, servers


def test_it_is_ready_only_when_a_call_could_go_out_and_ends_cleanly() -> None:
    """Started before any server; then ready, calling, saying who served; SIGTERM ends it with status 0."""
    with servers("a") as running:
        running["a"][0].close()
        address = running["a"][1]
        with load_generator(address, LOG__FORMAT="json") as client:
            with grpc.insecure_channel(health_address(client)) as channel:
                statuses = watch_health(channel)
                assert next(statuses) == NOT_SERVING
                assert health(channel, "liveness") == SERVING
                with servers("b", SERVER__PORT=address.rpartition(":")[2]):
                    assert next(statuses) == SERVING
                    line = json.loads(client.wait_for(r'.*"served": \{"b": \d+\}.*')[0])
                    assert line["served"]["b"] > 0
                # Readiness is about the start; who has had a connection looks for the next one by itself.
                client.wait_for('"errors": {"UNAVAILABLE"')
                assert health(channel) == SERVING
                client.send(signal.SIGTERM)
                assert client.ended() == 0
            assert not any("Traceback" in line for line in client.lines)


def health_address(client: Process) -> str:
    return "127.0.0.1:" + client.wait_for(r"health on port (\d+)")[1]


@pytest.mark.parametrize("twice", [False, True])
def test_calls_that_hang_do_not_hold_up_its_end(twice: bool) -> None:
    """It waits two seconds for them, whatever their deadline; a second SIGTERM ends it at once, with the status of that signal."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"  # of the server, and of the collector
        settings = {"CLIENT__TARGET": f"passthrough:///{address}", "CLIENT__TIMEOUT": "1h"}
        with load_generator(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{address}", **settings) as client:
            client.wait_for("health on port")
            client.send(signal.SIGTERM)
            client.wait_for("stopping with [1-9]")
            if twice:
                client.send(signal.SIGTERM)
            assert client.ended() == (128 + signal.SIGTERM if twice else 0)
            assert not any("Traceback" in line for line in client.lines)


def test_each_servers_first_answer_is_a_line_of_the_log_once() -> None:
    """So that logs tell when a new server was found, to the millisecond, and stay short."""
    with (
        servers("first", "second") as running,
        load_generator(*(address for _, address in running.values()), LOG__FORMAT="json") as client,
    ):
        for name in ("first", "second"):
            client.wait_for(f'"first": "{name}"')
        for _ in range(2):  # whole seconds in which both served
            client.wait_for('"served": {"first": [0-9]+, "second": [0-9]+}')
            client.lines.remove(next(line for line in client.lines if '"served"' in line))
        assert len([line for line in client.lines if "first answer from" in line]) == 2


def test_each_second_is_a_line_with_who_served_errors_and_latency() -> None:
    """The fields that the lab and dashboards read."""
    with servers("a") as running, load_generator(running["a"][1], LOG__FORMAT="json") as client:
        line = json.loads(client.wait_for(r'.*"served": \{"a".*')[0])
    assert line.keys() >= {"time", "severity", "logger", "message", "served", "errors", "skipped", "p50_ms", "p99_ms"}


def test_a_health_port_that_is_taken_is_said_in_a_sentence() -> None:
    """Status 1, no traceback."""
    with servers("a") as running:
        port = running["a"][1].rpartition(":")[2]
        with load_generator(running["a"][1], CLIENT__HEALTH_PORT=port, GRPC_VERBOSITY="NONE") as client:
            assert client.ended() == 1
            setting = f"GREETER__CLIENT__HEALTH_HOST=127.0.0.1 with GREETER__CLIENT__HEALTH_PORT={port}"
            assert client.lines[-1].startswith(f"client: cannot listen on {setting}")
            assert not any("Traceback" in line for line in client.lines)


def test_a_target_that_cannot_work_ends_it_with_a_sentence() -> None:
    """Status 2, no traceback."""
    (sentence,) = refused("client", CLIENT__TARGET="kubernetes:///Wrong")
    assert sentence.startswith("settings: GREETER__CLIENT__TARGET='kubernetes:///Wrong' is invalid: ")
