"""__main__.py as a user types it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .servers import DEADLINE, Server

ROOT = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "discovery", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE * 2
    )


def test_resolve_prints_a_table() -> None:
    """Addresses in order, what is unknown as a dash."""
    done = command("resolve", "static:///127.0.0.2:80,127.0.0.1:80,[::1]:81", "--no-health")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["ADDRESS", "ZONE", "WEIGHT", "HEALTH", "NAME"]
    assert [row[0] for row in rows[1:]] == ["127.0.0.1:80", "127.0.0.2:80", "[::1]:81"]


def test_resolve_as_json_is_one_document() -> None:
    """For scripts."""
    done = command("resolve", "static:///127.0.0.1:80", "--json", "--no-health")
    assert json.loads(done.stdout)["endpoints"] == [
        {"address": "127.0.0.1", "port": 80, "zone": "", "weight": 1, "health": "unknown"}
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("resolve", "dns:///x:80"), 2, "resolved by gRPC itself and cannot be shown; try dns-poll:///x:80"),
        (("resolve", "static:///x"), 2, "'x' is not host:port"),
        (("watch", "nowhere:///x"), 2, "scheme 'nowhere' is unknown"),
        (("resolve", "manual:///x", "--timeout", "0.1"), 1, "has no endpoints after 0.1 s: the registry has not answered yet"),
        (("resolve", "static:///no.such.host.invalid:80", "--timeout", "1"), 1, "cannot be looked up"),
        (("resolve", "static:///127.0.0.1:80", "--empty", "perhaps"), 2, "the empty policy 'perhaps' is unknown"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    """No traceback, nothing on standard output."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


HOSTILE = "é\x1b[2J\n\x9b\u202e\ud800\u2028"
SOURCE = f"""
from discovery import Empty, Endpoint, Health, Snapshot, SourceError, register

class Hostile:
    knows_health, empty, registry = True, Empty("keep"), "hostile"

    def __init__(self, target):
        self.fails = target.name == "fails"

    def watch(self):
        if not self.fails:
            text = {HOSTILE!a}
            yield Snapshot.of([Endpoint("127.0.0.1", 80, text, 1, Health.HEALTHY, text, text, (text,), text)], [text])
        raise SourceError({HOSTILE!a})

    def close(self): pass

register("hostile", lambda target, config: Hostile(target))
"""
"""A source whose registry holds what would command a terminal, and is not text in any encoding."""


@pytest.mark.parametrize("arguments", [("resolve",), ("resolve", "--json"), ("watch",), ("watch", "--json")])
@pytest.mark.parametrize("target", ["hostile:///works", "hostile:///fails"])
def test_what_a_registry_holds_cannot_command_a_terminal(tmp_path: Path, arguments: tuple[str, ...], target: str) -> None:
    """Names, zones, problems and errors are escaped on both outputs, and what the encoding lacks is no error."""
    (tmp_path / "hostile.py").write_text(SOURCE)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "discovery", *arguments, target, "--import", "hostile", "--timeout", "0.5"]
    shown = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert shown.stdout is not None
    first = shown.stdout.readline()
    if "watch" in arguments:
        shown.send_signal(signal.SIGINT)
    rest, errors = shown.communicate(timeout=DEADLINE)
    text = (first + rest + errors).decode()
    assert "Traceback" not in text
    assert "[2J" in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.splitlines()) == len(text.split("\n")) - 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_follows_changes_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    """A server without a health service counts as unknown; the line appears without any further event."""
    server = Server("a")
    watching = subprocess.Popen(
        [sys.executable, "-m", "discovery", "watch", f"static:///{server.address}"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killer = threading.Timer(DEADLINE, watching.kill)
    killer.start()
    try:
        assert watching.stdout is not None
        assert f"+ {server.address}  unknown" in watching.stdout.readline()
        assert "1 endpoint, synced" in watching.stdout.readline()
        watching.send_signal(number)
        _, errors = watching.communicate()
        assert (watching.returncode, errors) == (0, "")
    finally:
        killer.cancel()
        watching.kill()
        server.stop()


def test_a_closed_pipe_ends_it_quietly() -> None:
    """`| head -1` is a habit."""
    line = f"{sys.executable} -m discovery resolve static:///127.0.0.1:80 --no-health | head -c 1"
    done = subprocess.run(line, shell=True, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == ("A", "")
