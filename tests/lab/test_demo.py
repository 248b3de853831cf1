"""The demo: short scenarios that are really run, and assertions that can fail."""

import asyncio
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

from lab.bake import ROOT
from lab.demo.assertions import check
from lab.demo.modes import MODES, Dns, Promise
from lab.demo.scenario import PLAN, Act, Scenario, Step
from lab.demo.summary import measure
from lab.demo.table import show_summary
from lab.load import Result
from lab.project import Project

PATIENT = 10.0
"""Slack for a busy machine: here it counts which servers are called, the demo itself checks how soon."""
DEADLINE = 120.0
FOUR = {"server-1", "server-2", "server-3", "server-4"}

needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="needs etcd 3.4 or newer on PATH: apt-get install etcd-server"
)
MARKS = {"etcd": needs_etcd}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lab.demo", *arguments]


def on(project: Project) -> tuple[str, ...]:
    """The arguments that name it."""
    return ("--project", str(project.folder), "--venv", str(project.venv))


def environment(*folders: str, **settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, str(ROOT)]), **settings}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=MARKS.get(mode, ())) for mode in MODES])
def test_a_short_scenario_holds(project: Project, mode: str, tmp_path: Path) -> None:
    """Four server processes, a registry, a client: what was promised is what is seen, and a picture of it."""
    picture = tmp_path / "demo.png"
    seconds = "2.5" if mode == "dns" else "1"  # a refresh, with much to spare
    arguments = (
        *on(project),
        "--mode",
        mode,
        "--json",
        "--seconds-per-step",
        seconds,
        "--slack",
        str(PATIENT),
        "--picture",
        str(picture),
    )
    done = run(*arguments, FORCE_COLOR="1")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["project"], told["mode"], told["held"], told["picture"]) == (project.slug, mode, True, str(picture))
    assert [step["step"] for step in told["steps"]] == [act for act, _ in PLAN]
    if mode in ("dns", "etcd", "manual"):
        assert told["failed"] == 0
        assert set(told["servers"]) == set(told["steps"][1]["share"]) == FOUR
        assert set(told["steps"][3]["share"]) >= {"server-3", "server-4"}
    else:
        assert "server-4" not in told["steps"][1]["share"]
    assert "127.0.1.4" in done.stderr, "the live table was not shown"
    assert picture.read_bytes().startswith(b"\x89PNG")


async def test_a_system_without_more_loopback_addresses_publishes_ports_by_srv_records(project: Project) -> None:
    """As macOS is; these addresses belong to no machine (RFC 5737)."""
    scenario = Scenario(project, Dns(), rate=100, seconds=2.5, addresses=("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"))
    async with asyncio.timeout(DEADLINE):
        await scenario.run()
    assert {server.address for server in scenario.servers} == {"127.0.0.1"}
    assert scenario.mode.target == "dns-poll:///greeter.demo."
    seen = measure(scenario.steps, scenario.results)
    assert not [outcome.broken for outcome in check(scenario.mode.promise, seen, PATIENT) if outcome.broken]
    assert {name for line in seen for name in line.share} == FOUR


def test_an_interrupted_demo_leaves_no_server_behind(project: Project) -> None:
    """Ctrl-C in the middle: status 130, and every process is gone."""
    demo = subprocess.Popen(
        command(*on(project), "--mode", "manual"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    giving_up = threading.Timer(DEADLINE, demo.kill)
    giving_up.start()
    try:
        assert demo.stdout is not None
        assert any("steady" in line for line in demo.stdout), "the scenario did not begin"
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


def broken_by(promise: Promise, *lines: tuple[Step, Sequence[Result]]) -> str:
    """What is broken in the last step, or nothing."""
    seen = measure([step for step, _ in lines], [result for _, results in lines for result in results])
    return check(promise, seen)[-1].broken


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
        (ONE, [ONLY_1, told("drain", "server-1", at=2)], "no server was called after the end of server-1"),
        (ONE, [ONLY_1, told("kill", "server-3", at=2)], "no connection broke"),
    ],
)
def test_a_broken_promise_is_seen(promise: Promise, lines: Sequence[tuple[Step, Sequence[Result]]], broken: str) -> None:
    """Each rule, kept and broken."""
    found = broken_by(promise, *lines)
    assert broken in found if broken else not found


def test_the_summary_fits_a_terminal_and_names_what_is_broken(project: Project) -> None:
    """80 columns."""
    steps = [STEADY, told("add", "server-3", at=2, failed=7), told("bring back", "server-2", "server-3", at=1.5)]
    seen = measure([step for step, _ in steps], [result for _, results in steps for result in results])
    text = io.StringIO()
    show_summary(Console(file=text, width=80), Scenario(project, MODES["manual"]()), "manual", seen, check(ALL, seen))
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


def test_a_folder_that_is_no_project_is_a_sentence(tmp_path: Path) -> None:
    """It says what to name instead."""
    done = run("--project", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path} has 0 packages with server/__main__.py" in done.stderr


def test_a_server_that_does_not_start_says_why(project: Project) -> None:
    """The process's own last lines."""
    done = run(*on(project), "--mode", "manual", "--setting", "SERVER__DRAIN__GRACE=ten hours")
    assert done.returncode == 2, done.stderr
    assert f"{project.prefix}SERVER__DRAIN__GRACE" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_of_a_developer_count_for_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is given what the lab wants, under its full name, and nothing of the caller's environment."""
    monkeypatch.setenv(f"{project.prefix}SERVER__NAME", "mine")
    given = project.environment({"SERVER__PORT": "1", "LD_PRELOAD": "x.so"})
    assert f"{project.prefix}SERVER__NAME" not in given
    assert (given[f"{project.prefix}SERVER__PORT"], given["LD_PRELOAD"]) == ("1", "x.so")


def test_a_library_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    """Where the demo is run without `make`."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='rich')")
    done = subprocess.run(command(), cwd=ROOT, env=environment(str(tmp_path)), capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "rich is not installed" in done.stderr
    assert "make demo" in done.stderr
