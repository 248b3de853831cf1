"""All that programs do to channels, at once and as often as possible: a program that ends well, or says where it stopped.

Run by test_stress.py in a process of its own. It uses the public interface only, so that it can be tried on any version of the library.
Arguments: for how many seconds, how many an actor may go without progress, a folder with two sets of TLS files, and two servers.
"""

import asyncio
import atexit
import contextlib
import faulthandler
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import discovery

READER = InMemoryMetricReader()
METHOD = "/test.Echo/Who"
FILES = ("ca.crt", "tls.key", "tls.crt")
SIZE = 1000
RETRY = (
    '{"methodConfig": [{"name": [{"service": "any"}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.1s", '
    '"maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
)
SETTLE = 30.0
"""Seconds for what must come true after the last change."""


class Stress:
    """The actors, a counter for each, and what went wrong."""

    def __init__(self, a: str, b: str, folder: Path) -> None:
        with contextlib.suppress(ImportError):
            from discovery.xds import runtime

            runtime.LINGER = 2.0  # for a forgotten channel's source to end within the run
        self.live = [a, b]
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.ended = self.handling = False
        self.to_close: deque[grpc.Channel] = deque(maxlen=50)
        self.config = discovery.Config(coalesce=0.0)
        self.manuals = {name: discovery.Manual(name) for name in ("live", "large", "other", "tls")}
        self.manuals["live"].set(self.live)
        self.manuals["large"].set(self.large(0))
        self.manuals["other"].set([b])
        self.manuals["tls"].set([a])
        self.folder = folder
        self.pairs = [tuple((folder / pair / name).read_bytes() for name in FILES) for pair in ("first", "second")]
        self.write(self.pairs[0])
        self.files = discovery.CertificateFiles(
            ca=f"{folder}/ca.crt", certificate=f"{folder}/tls.crt", key=f"{folder}/tls.key", refresh=0.01
        )
        self.kept = [self.open(f"manual:///{name}") for name in ("live", "large")]

    def open(self, target: str, **options: Any) -> Any:
        return discovery.insecure_channel(target, config=self.config, **options)

    def large(self, number: int) -> list[Any]:
        endpoint = discovery.Endpoint
        return [endpoint(f"127.9.{each // 250}.{each % 250 + 1}", 1 + number % 7) for each in range(SIZE)]

    def write(self, pair: tuple[bytes, ...]) -> None:
        for name, content in zip(FILES, pair, strict=True):
            (self.folder / "next").write_bytes(content)
            os.replace(self.folder / "next", self.folder / name)

    # ---- actors: each is called again and again on a thread of its own ----

    def opens_and_closes(self) -> None:
        with self.open("manual:///live") as channel:
            answer = channel.unary_unary(METHOD)(b"", timeout=60)
            if answer not in (b"a", b"b"):
                self.wrong[f"an answer of nobody: {answer!r}"] += 1

    def opens_several_targets(self) -> None:
        channels = [self.open(f"manual:///{random.choice(('large', 'other'))}") for _ in range(3)]
        for channel in channels:
            channel.close()

    def forgets_in_cycles(self) -> None:
        cycle: dict[str, Any] = {"channel": self.open(random.choice(("manual:///other", "manual:///large", "manual:///none")))}
        cycle["again"] = cycle
        time.sleep(0.001)

    def calls_and_forgets(self) -> None:
        future = self.open("manual:///live").unary_unary(METHOD).future(b"", timeout=60)
        time.sleep(0.005)
        future.cancel()

    def sets_few(self) -> None:
        self.manuals["live"].set(random.sample(self.live, random.randint(1, 2)))
        time.sleep(0.002)

    def sets_many(self) -> None:
        self.manuals["large"].set(self.large(self.done["sets_many"]))
        time.sleep(0.005)

    def asks_for_status(self) -> None:
        discovery.status("manual:///live").by_health()
        discovery.wait_until_synced("manual:///large", 60)

    def collects_metrics(self) -> None:
        READER.collect()
        time.sleep(0.001)

    def follows_certificates(self) -> None:
        cycle: dict[str, Any] = {"channel": discovery.secure_channel("manual:///tls", self.files, config=self.config)}
        cycle["again"] = cycle
        discovery.secure_channel("manual:///tls", self.files, config=self.config).close()
        time.sleep(0.005)

    def rewrites_certificates(self) -> None:
        self.write(random.choice(self.pairs))
        time.sleep(0.01)

    def checks_health(self) -> None:
        with self.open("static:///" + ",".join(random.sample(self.live, 2))) as channel:
            channel.unary_unary(METHOD)(b"", timeout=60)

    def collects_garbage(self) -> None:
        gc.collect()
        time.sleep(0.02)

    def runs_asyncio(self) -> None:
        asyncio.run(self._jobs())

    async def _jobs(self) -> None:
        """Channels that are kept for a moment by an exception's traceback, as usual."""
        for _ in range(20):
            channel: Any = discovery.aio.insecure_channel("manual:///other", config=self.config)
            try:
                await channel.unary_unary("/test.Echo/Nothing")(b"", timeout=20)
            except grpc.RpcError as error:
                kept = error  # noqa: F841
            async with cast(Any, discovery.aio.insecure_channel("manual:///live", config=self.config)) as channel:
                await channel.unary_unary(METHOD)(b"", timeout=60)
            self.done["runs_asyncio"] += 1

    def forks(self) -> None:
        """A child with its parent's channels may close and drop them, and is told that it can open none."""
        child = os.fork()
        if not child:
            _end_within(60)
            self.kept.pop().close()
            self.to_close.clear()
            try:
                self.open("manual:///live")
            except discovery.ControlPlaneError:
                os._exit(0)
            os._exit(3)
        if (status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) in (3, -signal.SIGALRM):
            self.wrong[f"a child with its parent's channels ended with {status}"] += 1
        time.sleep(1)

    # ---- on the main thread ----

    def handles_signals(self) -> None:
        """Opens channels, which signals close, whatever the main thread is at."""
        retry = RETRY.replace("any", f"any{random.randint(0, 9)}")
        self.to_close.append(self.open("manual:///large", options=[("grpc.service_config", retry)]))
        self.to_close.append(self.open("manual:///live"))

    def on_signal(self, *_: object) -> None:
        if not self.handling:
            self.handling = True
            with contextlib.suppress(IndexError):
                self.to_close.pop().close()
            discovery.status("manual:///live").by_health()
            self.done["on_signal"] += 1
            self.handling = False

    def run(self, seconds: float, stuck: float) -> None:
        """For so long; `stuck` is for how long an actor may make no progress."""
        actors = [
            self.opens_and_closes,
            self.opens_several_targets,
            self.forgets_in_cycles,
            self.calls_and_forgets,
            self.sets_few,
            self.sets_many,
            self.asks_for_status,
            self.collects_metrics,
            self.follows_certificates,
            self.rewrites_certificates,
            self.checks_health,
            self.collects_garbage,
            self.runs_asyncio,
            self.forks,
        ]
        actors += [self.opens_and_closes, self.asks_for_status]  # on two threads each
        threads = [threading.Thread(target=self._repeat, args=(actor,), name=actor.__name__, daemon=True) for actor in actors]
        watchdog = threading.Thread(target=self._watch, args=({actor.__name__ for actor in actors}, stuck), daemon=True)
        for thread in (*threads, watchdog):
            thread.start()
        signal.signal(signal.SIGALRM, self.on_signal)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.handles_signals()
            self.done["handles_signals"] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.ended = True
        for thread in threads:
            thread.join(stuck)
            if thread.is_alive():
                _stuck(f"{thread.name} does not end", self.done)
        self.done["end"] = 1

    def _repeat(self, actor: Callable[[], None]) -> None:
        while not self.ended:
            try:
                actor()
            except Exception as error:
                if "xDS call failed with no responses received" in str(error):
                    # gRPC's own fork handlers, while other threads open channels: none with GRPC_ENABLE_FORK_SUPPORT=0.
                    self.done["failed by a fork"] += 1
                    continue
                self.wrong[f"{actor.__name__}: {type(error).__name__}: {str(error)[:1500]}"] += 1
                time.sleep(0.05)
            self.done[actor.__name__] += 1

    def _watch(self, names: set[str], stuck: float) -> None:
        """The watchdog: it uses nothing of the library's."""
        names |= {"handles_signals", "on_signal"}
        last, since = dict.fromkeys(names, -1), dict.fromkeys(names, time.monotonic())
        while not self.ended:
            time.sleep(0.5)
            now = time.monotonic()
            for name in names:
                if self.done[name] != last[name]:
                    last[name], since[name] = self.done[name], now
                elif now - since[name] > stuck:
                    _stuck(f"{name} makes no progress", self.done)

    def check(self) -> None:
        """The last sets everywhere, and nothing left."""
        self.manuals["live"].set(self.live[1:])
        self.manuals["large"].set(final := self.large(3))
        for target, expected in (("manual:///live", 1), ("manual:///large", len(final))):
            self.comes_true(f"the last set of {target}", functools.partial(self._last, target, expected))
        call = self.kept[0].unary_unary(METHOD)
        self.comes_true("calls to the last set only", lambda: {call(b"", timeout=60) for _ in range(20)} == {b"b"})
        for channel in (*self.kept, *self.to_close):
            channel.close()
        self.kept.clear()
        self.to_close.clear()
        self.comes_true("no thread of a target's", lambda: not _left())

    def _last(self, target: str, expected: int) -> bool:
        snapshot = discovery.status(target, config=self.config).snapshot
        assert snapshot is not None
        ports = {endpoint.port for endpoint in snapshot.endpoints}
        return len(snapshot) == expected and ports == ({4} if expected == SIZE else {int(self.live[1].rpartition(":")[2])})

    def comes_true(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + SETTLE
        while not condition():
            if time.monotonic() > until:
                self.wrong[f"{what}: not after {SETTLE:g} s; {_left()}"] += 1
                faulthandler.dump_traceback(sys.stdout, all_threads=True)
                return
            time.sleep(0.05)
            gc.collect()  # which does nothing while another thread collects

    def forks_when_closed(self) -> None:
        """Then a child may open channels of its own."""
        for _ in range(3):
            child = os.fork()
            if not child:
                _end_within(60)
                with self.open("manual:///other") as channel:
                    answer = channel.unary_unary(METHOD)(b"", timeout=40)
                atexit._run_exitfuncs()
                os._exit(0 if answer == b"b" else 4)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            self.done[f"forks_when_closed: {status}"] += 1


def _end_within(seconds: int) -> None:
    """For a child, whose faulthandler waits for a thread of the parent's."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _left() -> list[str]:
    """The threads that belong to a target, a list of targets or files."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if "://" in name or "certificates" in name]


def _stuck(what: str, done: Counter[str]) -> None:
    print(f"STUCK: {what}; {dict(done)}", flush=True)
    faulthandler.dump_traceback(sys.stdout, all_threads=True)
    sys.stdout.flush()
    os._exit(1)


def main(seconds: float, stuck: float, folder: Path, a: str, b: str) -> None:
    """Exits with 1 and says why, if anything is wrong."""
    faulthandler.dump_traceback_later(seconds + 6 * stuck, exit=True, file=sys.stdout)
    stress = Stress(a, b, folder)
    gc.set_threshold(20, 5, 5)
    sys.setswitchinterval(1e-5)
    stress.run(seconds, stuck)
    gc.set_threshold(700, 10, 10)
    sys.setswitchinterval(0.005)
    stress.check()
    faulthandler.cancel_dump_traceback_later()
    stress.forks_when_closed()
    print(dict(stress.done), flush=True)
    for wrong, count in stress.wrong.items():
        print(f"WRONG, {count} times: {wrong}", flush=True)
    sys.exit(1 if stress.wrong else 0)


if __name__ == "__main__":
    set_meter_provider(MeterProvider([READER]))
    main(float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
