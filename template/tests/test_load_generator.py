"""The load generator as a process."""

import json
import signal

from tests.processes import CLIENT, SERVER, Start


async def test_the_load_generator_logs_the_calls_by_server(start: Start) -> None:
    """Each server's first answer, then the calls by server every second; SIGTERM ends it with status 0."""
    servers = [await start(*SERVER, SERVER__NAME=name) for name in ("a", "b")]
    target = "static:///" + ",".join([await server.address() for server in servers])
    client = await start(*CLIENT, CLIENT__TARGET=target, CLIENT__RATE="50")
    assert {(await client.line('"first": "([ab])"'))[1] for _ in servers} == {"a", "b"}
    second = json.loads((await client.line(r'^.*"served": \{"a": \d+, "b": \d+\}.*$'))[0])
    assert (second["errors"], second["skipped"]) == ({}, 0)
    client.send(signal.SIGTERM)
    assert await client.ended() == 0
    assert "Traceback" not in client.printed
