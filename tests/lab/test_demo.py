"""The demo: short stories that are really run, and a judgement that can fail."""

import asyncio
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lab.demo.assertions import judge
from lab.demo.modes import MODES, Dns, Promise
from lab.demo.pair import Result
from lab.demo.scenario import PLAN, Act, Step, Story
from lab.demo.summary import measure
from lab.demo.table import show_summary

ROOT = Path(__file__).parents[1]
PATIENT = 10.0
"""Slack for a busy machine: here it counts who is called, the demo itself says how soon."""
DEADLINE = 120.0
FOUR = {"server-1", "server-2", "server-3", "server-4"}

HERE = importlib.util.find_spec("discovery.sources.etcd") is not None
needs_etcd = pytest.mark.skipif(
    not HERE or shutil.which("etcd") is None,
    reason="made without the registry etcd" if not HERE else "needs etcd 3.4 or newer on PATH: apt-get install etcd-server",
)
needs_dns = pytest.mark.skipif(not importlib.util.find_spec("discovery.sources.dns"), reason="made without the registry dns")
MARKS = {"dns": needs_dns, "etcd": needs_etcd}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "demo", *arguments]


def environment(*folders: str, **settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, "src", "."]), **settings}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=MARKS.get(mode, ())) for mode in MODES])
def test_a_short_story_holds(mode: str, tmp_path: Path) -> None:
    """Four server processes, a registry, a client: what was promised is what is seen, and a picture of it."""
    picture = tmp_path / "demo.png"
    seconds = "2.5" if mode == "dns" else "1"  # a refresh, with much to spare
    arguments = ("--mode", mode, "--json", "--seconds-per-step", seconds, "--slack", str(PATIENT), "--picture", str(picture))
    done = run(*arguments, FORCE_COLOR="1")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["mode"], told["held"], told["picture"]) == (mode, True, str(picture))
    assert [step["step"] for step in told["steps"]] == [act for act, _ in PLAN]
    if mode in ("dns", "etcd", "manual"):
        assert told["failed"] == 0
        assert set(told["servers"]) == set(told["steps"][1]["share"]) == FOUR
        assert set(told["steps"][3]["share"]) >= {"server-3", "server-4"}
    else:
        assert "server-4" not in told["steps"][1]["share"]
    assert "127.0.1.4" in done.stderr, "the live table was not shown"
    assert picture.read_bytes().startswith(b"\x89PNG")


@needs_dns
async def test_a_system_without_more_loopback_addresses_tells_ports_by_srv_records() -> None:
    """As macOS is; these addresses belong to no machine (RFC 5737)."""
    story = Story(Dns(), rate=100, seconds=2.5, addresses=("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"))
    async with asyncio.timeout(DEADLINE):
        await story.run()
    assert {server.address for server in story.servers} == {"127.0.0.1"}
    assert story.mode.target == "dns-poll:///greeter.demo."
    seen = measure(story.steps, story.results)
    assert not [verdict.broken for verdict in judge(story.mode.promise, seen, PATIENT) if verdict.broken]
    assert {name for line in seen for name in line.share} == FOUR


def test_an_interrupted_demo_leaves_no_server_behind() -> None:
    """Ctrl-C in mid-story: status 130, and every process is gone."""
    demo = subprocess.Popen(command("--mode", "manual"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    giving_up = threading.Timer(DEADLINE, demo.kill)
    giving_up.start()
    try:
        assert demo.stdout is not None
        assert any("steady" in line for line in demo.stdout), "the story did not begin"
        servers = children(demo.pid)
        assert len(servers) >= 3
        demo.send_signal(signal.SIGINT)
        assert demo.wait() == 130
        assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]
    finally:
        giving_up.cancel()
        demo.kill()
        demo.communicate()


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name) state ppid ...; a name may hold spaces
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(process.name))
        except OSError:
            continue
    return found


ALL, RECONNECT, ONE = Promise("all", "", within=1.0), Promise("reconnect", ""), Promise("one", "")


def told(act: Act, *servers: str, at: float, failed: int = 0, ended: float | None = None) -> tuple[Step, list[Result]]:
    """A step of 20 s whose change came at second 1, and calls to `servers` in turn, the last of which is answered at second `at`."""
    name = dict(PLAN)[act]
    began = 20.0 * [known for known, _ in PLAN].index(act)
    stopped = began + 3 if act in ("drain", "kill") else None
    step = Step(act, name, began, began + 20, began + 1 if name else None, stopped, ("server-3",))
    results = [Result(began + at - 0.25 - 0.01 * early, 0.25, server, "OK") for early, server in enumerate(reversed(servers))]
    return step, results + [Result(began + 1, 0.1, "", "UNAVAILABLE")] * failed


def verdicts(promise: Promise, *lines: tuple[Step, Sequence[Result]]) -> str:
    """What is broken in the last step, or nothing."""
    seen = measure([step for step, _ in lines], [result for _, results in lines for result in results])
    return judge(promise, seen)[-1].broken


STEADY = told("steady", "server-1", "server-2", "server-3", at=1)
ONLY_1 = told("steady", "server-1", at=1)
ADD = told("add", "server-3", "server-4", at=2)
ADD_UNSEEN = told("add", "server-1", "server-2", "server-3", at=2)


@pytest.mark.parametrize(
    ("promise", "lines", "broken"),
    [
        (ALL, [STEADY], ""),
        (ALL, [told("steady", *["server-1"] * 2, "server-2", "server-3", at=1)], "not spread evenly"),
        (ALL, [told("steady", "server-1", "server-2", at=1)], "server-3 served, and got no call"),
        (ALL, [told("steady", "server-3", at=1, failed=1)], "1 of 2 calls failed"),
        (ALL, [told("steady", at=1, failed=1)], "no call was answered"),
        (ALL, [STEADY, ADD], ""),
        (ALL, [STEADY, told("add", "server-3", "server-4", at=2.1)], "came 1.100 s after the update"),
        (ALL, [STEADY, told("add", "server-3", at=2)], "never came"),
        (ALL, [STEADY, told("drain", "server-3", "server-1", at=2)], ""),
        (ALL, [STEADY, told("drain", "server-3", "server-1", at=4)], "ended 1.000 s after its process"),
        (RECONNECT, [STEADY, ADD_UNSEEN], ""),
        (RECONNECT, [STEADY, ADD], "gRPC should not have asked DNS again"),
        (RECONNECT, [STEADY, ADD_UNSEEN, told("drain", "server-3", "server-4", at=4)], ""),
        (RECONNECT, [STEADY, ADD_UNSEEN, told("drain", "server-3", at=4)], "gRPC should have asked DNS again"),
        (ONE, [ONLY_1], ""),
        (ONE, [STEADY], "no connection broke"),
        (ONE, [ONLY_1, told("add", "server-1", at=2)], ""),
        (ONE, [ONLY_1, told("add", "server-1", "server-4", at=2)], "no connection broke"),
        (ONE, [ONLY_1, told("drain", "server-1", "server-2", at=2)], ""),
        (ONE, [ONLY_1, told("drain", "server-1", "server-2", "server-3", at=2)], "only server-1 and the one after it"),
        (ONE, [ONLY_1, told("drain", "server-1", at=2)], "nobody was called after the end of server-1"),
        (ONE, [ONLY_1, told("kill", "server-3", at=2)], "no connection broke"),
    ],
)
def test_a_broken_promise_is_seen(promise: Promise, lines: Sequence[tuple[Step, Sequence[Result]]], broken: str) -> None:
    """Each rule, kept and broken."""
    found = verdicts(promise, *lines)
    assert broken in found if broken else not found


def test_the_summary_fits_a_terminal_and_names_what_is_broken() -> None:
    """80 columns."""
    steps = [STEADY, told("add", "server-3", at=2, failed=7), told("bring back", "server-2", "server-3", at=1.5)]
    seen = measure([step for step, _ in steps], [result for _, results in steps for result in results])
    text = io.StringIO()
    show_summary(Console(file=text, width=80), Story(MODES["manual"]()), "manual", seen, judge(ALL, seen))
    table, _, notes = text.getvalue().partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert "✗ add server-4: 7 of 8 calls failed" in notes
    assert "✗ not as expected" in notes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mode", "carrier-pigeon"], "invalid choice"),
        (["--rate", "0"], "0 is no number from 1 to 2000"),
        (["--picture", "no-such-folder/demo.png"], "no file can be written there"),
    ],
)
def test_a_mistyped_argument_is_a_sentence(arguments: list[str], sentence: str) -> None:
    """Status 2, as for every command."""
    done = run(*arguments)
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_is_a_sentence() -> None:
    """The pair's settings apply to the demo too."""
    done = run("--mode", "manual", CLIENT__RETRY__ATTEMPTS="77")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "CLIENT__RETRY__ATTEMPTS=77" in done.stderr


def test_a_server_that_does_not_start_says_why() -> None:
    """The process's own last words."""
    done = run("--mode", "manual", SERVER__MAX_CONCURRENT_RPCS="1", SERVER__DRAIN__GRACE="10h")
    assert done.returncode == 2, done.stderr
    assert "SERVER__DRAIN__GRACE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_library_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    """Where the demo is run without `make`."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='rich')")
    done = subprocess.run(command(), cwd=ROOT, env=environment(str(tmp_path)), capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "rich is not installed" in done.stderr
    assert "make demo" in done.stderr
