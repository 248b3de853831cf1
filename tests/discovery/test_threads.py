"""What a library author tries: no thread to be had, locks that are held, and code of others that hangs or raises at the wrong moment."""

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import discovery
from discovery import Config, Empty, Endpoint, Manual, Snapshot, insecure_channel, status
from discovery.resolving import threads
from discovery.resolving.publisher import Publisher
from discovery.resolving.threads import Serial, Timer
from discovery.status import Status
from discovery.target import parse
from discovery.xds import lease, runtime
from discovery.xds.resources import TargetResources
from discovery.xds.runtime import process

from .servers import DEADLINE, Server, servers, until, who

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def manual() -> Manual:
    """A target of its own for each test."""
    return Manual(f"test-{uuid.uuid4().hex}")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, because it breaks what all channels of a process share."""
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


# ---- no thread to be had ----

NTH_START = """
import sys, threading, grpc, discovery
address, nth = sys.argv[1], int(sys.argv[2])
discovery.Manual("one").set([address])
start, started = threading.Thread.start, [0]
def counted(self):
    started[0] += 1
    if started[0] == nth:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = counted
ended = []
threading.excepthook = lambda arguments: ended.append(arguments.thread.name)
target = "manual:///one,manual:///two"
def call():
    with discovery.insecure_channel(target) as channel:
        return channel.unary_unary("/test.Echo/Who")(b"", timeout=20)
try:
    first = call()
except (RuntimeError, grpc.RpcError) as error:  # gRPC's own threads count, too
    first = error
threading.Thread.start = start
assert call() == b"a"
with discovery.insecure_channel(target) as again:
    assert again.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
print(started[0] >= nth, ended, first)
"""


def test_any_thread_that_cannot_be_started_leaves_nothing_half_made() -> None:
    """A limit on threads that is hit at any of the starts: the channel works or says why not, and the next one works."""
    with servers("a") as running:
        for nth in range(1, 100):
            done = run(NTH_START, running["a"].address, str(nth))
            assert done.returncode == 0, f"start {nth}: {done.stdout}{done.stderr}"
            reached, _, rest = done.stdout.partition(" ")
            assert rest.startswith("[]"), f"start {nth} ended a thread: {rest}"
            if reached == "False":
                assert nth > 5, "the starts were not counted"
                return
    raise AssertionError("every start of a hundred was reached")


# ---- finalizers and signal handlers ----

NO_LOCK = """
import gc, os, sys, threading, concurrent.futures
address, folder = sys.argv[1:]
finalizing = threading.local()
taken = []
def recording(kind):
    def make(*arguments):
        return Recorder(kind(*arguments))
    return make
class Recorder:
    def __init__(self, lock):
        self.lock = lock
    def __getattr__(self, name):
        return getattr(self.lock, name)
    def acquire(self, *arguments, **named):
        self.note()
        return self.lock.acquire(*arguments, **named)
    def release(self):
        self.lock.release()
    def __enter__(self):
        self.note()
        return self.lock.__enter__()
    def __exit__(self, *exc_info):
        self.lock.__exit__(*exc_info)
    def note(self):
        if getattr(finalizing, "now", False):
            frame = sys._getframe(2)
            while frame.f_code.co_filename.startswith(os.path.dirname(os.__file__)) and "site-packages" not in frame.f_code.co_filename:
                frame = frame.f_back  # the standard library's, on behalf of
            if frame.f_code.co_filename.startswith(os.path.dirname(discovery.__file__)):
                taken.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
threading.Lock, threading.RLock = recording(threading.Lock), recording(threading.RLock)
import discovery, grpc
from discovery.xds.runtime import process
discovery.Manual("x").set([address])
static = "static:///" + address
files = discovery.CertificateFiles(ca=folder + "/ca.pem")
opened = {
    "plain": lambda: discovery.insecure_channel("manual:///x"),
    "health": lambda: discovery.insecure_channel(static),
    "list": lambda: discovery.insecure_channel("manual:///x," + static),
    "aio": lambda: discovery.aio.insecure_channel("manual:///x"),
    "aio with files": lambda: discovery.aio.secure_channel("manual:///x", files),
    "files": lambda: discovery.secure_channel("manual:///x", files),
    "files, gRPC's own": lambda: discovery.secure_channel("dns:///" + address, files),
}
gc.disable()
for name, make in opened.items():
    kept = [make()]
    kept.append(kept)  # a cycle: only the collector frees it
    if "files" not in name and "aio" not in name:
        assert kept[0].unary_unary("/test.Echo/Who")(b"", timeout=20) == b"a"
    del kept
    finalizing.now = True
    gc.collect()
    finalizing.now = False
    print(name, taken, flush=True)
    taken.clear()
os._exit(0)
"""


def test_a_finalizer_takes_no_lock(tmp_path: Path) -> None:
    """The collector runs on any thread, in the middle of anything: a lock may be held by the thread that it runs on."""
    trustme = pytest.importorskip("trustme")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    with servers("a") as running:
        done = run(NO_LOCK, running["a"].address, str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    for line in lines:
        assert line.endswith(" []"), line


def test_close_inside_a_guard_does_not_wait(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer of the program's own, or a signal handler, may close a channel while this thread holds what the timer needs."""
    monkeypatch.setattr(lease, "CLOSE_WAIT", 1e6)
    channel = insecure_channel(manual.target)
    with process._guard:
        channel.close()
    until(lambda: manual.target not in [each.target for each in process.statuses()])


def test_close_on_the_timers_thread_does_not_wait_for_itself(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may run there as well."""
    monkeypatch.setattr(lease, "CLOSE_WAIT", 1e6)
    channel = insecure_channel(manual.target)
    closed = threading.Event()

    def close() -> None:
        channel.close()
        closed.set()

    threads.timer.post(close)
    assert closed.wait(DEADLINE)


# ---- code of others that hangs or raises ----


class Held:
    """A source whose parts wait until they are let go."""

    knows_health = True
    empty = Empty("fail")
    registry = "held"
    opening, closing = threading.Event(), threading.Event()
    entered: threading.Event = threading.Event()

    def watch(self) -> Iterator[Snapshot]:
        yield Snapshot.of([Endpoint("127.0.0.1", 1)])
        self.closing.wait()

    def close(self) -> None:
        self.entered.set()
        self.closing.wait()


def others_work() -> None:
    """Open, use, ask, and close a channel on another target."""
    other = Manual(f"other-{uuid.uuid4().hex}")
    with servers("a") as running:
        other.set([running["a"].address])
        with insecure_channel(other.target) as channel:
            assert who(channel) == "a"
            assert status(other.target).state == "synced"
        insecure_channel(other.target)._lease.release().result(DEADLINE)  # type: ignore[attr-defined]


@pytest.fixture
def held() -> Iterator[type[Held]]:
    """The source, registered as held:///."""

    class Mine(Held):
        opening, closing, entered = threading.Event(), threading.Event(), threading.Event()

    scheme = f"held-{uuid.uuid4().hex}"

    def open_source(target: object, config: Config) -> Any:
        Mine.entered.set()
        if str(target).endswith("slow"):
            Mine.opening.wait()
        return Mine()

    discovery.register(scheme, open_source)
    Mine.registry = scheme
    yield Mine
    Mine.opening.set()
    Mine.closing.set()


def test_a_source_that_takes_long_to_open_holds_up_no_other_target(held: type[Held]) -> None:
    """No lock is held meanwhile."""
    channels: list[Any] = []
    opener = threading.Thread(target=lambda: channels.append(insecure_channel(f"{held.registry}:///slow")))
    opener.start()
    assert held.entered.wait(DEADLINE)
    others_work()
    held.opening.set()
    opener.join(DEADLINE)
    held.closing.set()
    channels[0].close()


def test_a_source_that_takes_long_to_close_holds_up_no_other_target(held: type[Held], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own close gives up waiting after a while."""
    monkeypatch.setattr(lease, "CLOSE_WAIT", 0.01)
    channel = insecure_channel(f"{held.registry}:///x")
    held.entered.clear()
    channel.close()
    assert held.entered.wait(DEADLINE)
    others_work()


def test_a_set_that_takes_long_to_lay_out_holds_up_no_other_target(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of endpoints take a while; it happens on the stream's thread, without a lock."""
    begun, go_on = threading.Event(), threading.Event()
    update = TargetResources.update

    def slow(self: TargetResources, snapshot: Snapshot) -> bool:
        if any(endpoint.port == 2 for endpoint in snapshot.endpoints):
            begun.set()
            go_on.wait()
        return update(self, snapshot)

    monkeypatch.setattr(TargetResources, "update", slow)
    with servers("a") as running, insecure_channel(manual.target) as channel:
        manual.set([running["a"].address])
        assert who(channel) == "a"
        manual.set([running["a"].address, "127.0.0.1:2"])
        assert begun.wait(DEADLINE)
        others_work()
        assert len(status(manual.target).snapshot or ()) == 2
        go_on.set()


def test_a_log_handler_that_raises_ends_no_thread(manual: Manual) -> None:
    """Whatever is said on the way."""

    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("disk full")

    handler = Raising()
    logger = logging.getLogger("discovery")
    logger.addHandler(handler)
    try:
        with servers("a") as running, insecure_channel(manual.target, config=Config(empty=Empty("keep"))) as channel:
            manual.set([running["a"].address])
            assert who(channel) == "a"
            manual.set([])  # warns
            until(lambda: status(manual.target).suspicious is not None)
            manual.set([running["a"].address, "127.0.0.1:2"])
            until(lambda: len(status(manual.target).snapshot or ()) == 2)
    finally:
        logger.removeHandler(handler)


# ---- the parts ----


class Plain(Publisher):
    """A publisher that is driven by hand."""

    def say(self, pushes: int) -> None:
        with self._guard:
            self._change(pushes=pushes)
        self._tell()


def test_a_listener_that_raises_keeps_nobody_from_the_news(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and told the next one too."""
    publisher, seen = Plain(parse("manual:///x")), list[int]()

    def broken(status: Status) -> None:
        raise ValueError(status.pushes)

    publisher.subscribe(broken)
    publisher.subscribe(lambda status: seen.append(status.pushes))
    for number in (1, 2):
        publisher.say(number)
    assert seen == [0, 1, 2]
    assert "a listener on target 'manual:///x' raised" in caplog.text


def test_news_from_within_a_listener_is_told_after_it() -> None:
    """One at a time, and none is lost."""
    publisher, seen = Plain(parse("manual:///x")), list[int]()

    def listener(status: Status) -> None:
        if status.pushes == 1:
            publisher.say(2)
        seen.append(status.pushes)

    publisher.subscribe(listener)
    publisher.say(1)
    assert seen == [0, 1, 2]


def test_a_function_that_is_called_while_it_runs_runs_once_more() -> None:
    """On the thread that runs it; the caller does not wait."""
    entered, go_on, ran = threading.Event(), threading.Event(), list[int]()

    def work() -> None:
        ran.append(threading.get_ident())
        entered.set()
        go_on.wait(DEADLINE)

    serial = Serial(work)
    thread = threading.Thread(target=serial)
    thread.start()
    assert entered.wait(DEADLINE)
    for _ in range(3):
        serial()
    go_on.set()
    thread.join(DEADLINE)
    assert ran == [thread.ident] * 2


def test_a_function_that_raised_runs_again() -> None:
    """Also after a KeyboardInterrupt."""
    ran = list[int]()

    def work() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise KeyboardInterrupt

    serial = Serial(work)
    with pytest.raises(KeyboardInterrupt):
        serial()
    serial()
    assert len(ran) == 2


def test_the_timer_survives_what_it_runs_and_keeps_the_order() -> None:
    """Of functions that are due at different times."""
    timer, ran, done = Timer(), list[str](), threading.Event()
    now = time.monotonic()

    def broken() -> None:
        ran.append("broken")
        raise ValueError

    steps: list[tuple[float, Callable[[], None]]] = [(0.02, done.set), (0.01, lambda: ran.append("later")), (0.0, broken)]
    for delay, function in steps:
        timer.call_at(now + delay, function)
    assert done.wait(DEADLINE)
    assert ran == ["broken", "later"]


def test_a_forgotten_channel_in_a_cycle_ends_its_source(manual: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, which is shortened here."""
    monkeypatch.setattr(runtime, "LINGER", 0.0)
    kept: list[Any] = [insecure_channel(manual.target)]
    kept.append(kept)
    del kept
    gc.collect()
    until(lambda: manual.target not in [each.target for each in process.statuses()])


def test_a_call_that_waits_from_before_the_first_set_is_answered_when_the_set_comes(manual: Manual) -> None:
    """Also if gRPC has given the endpoints up meanwhile, after 15 s, and if they come in many parts."""
    server = Server("a", "0.0.0.0:0")
    try:
        with insecure_channel(manual.target) as channel:
            call: Any = channel.unary_unary("/test.Echo/Who")
            waiting = call.future(b"", timeout=DEADLINE, wait_for_ready=True)
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                call(b"", timeout=DEADLINE)
            manual.set([Endpoint(f"127.0.{number // 250}.{number % 250 + 1}", server.port) for number in range(300)])
            assert waiting.result() == b"a"
            assert call(b"", timeout=DEADLINE) == b"a"
    finally:
        server.stop()
