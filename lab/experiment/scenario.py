"""The scenario itself, in one mode: steps in order, each a change and a while of watching; the client calls beside it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from .cluster import PATIENCE, SHARED_PROCESSES, Cluster, ExperimentError, Site, disturb
from .modes import Mode
from .record import Act, Change, Cost, First, Record, Second, Step
from .watching import Observer

START, UP, DOWN, AGAIN = 3, 5, 2, 5
"""How many servers there are at first, then, then, and after the API server's return."""
AGE = 30.0
"""Seconds of MaxConnectionAge, where it is limited: in native-dns as it is deployed, and in passthrough for a while."""
PAUSE = 5.0
"""Seconds that are watched after a change has had its effect."""


@dataclass(frozen=True)
class Options:
    """rate: calls a second.   outage: seconds for which the API server is stopped.   refresh, dns_ttl: seconds from one DNS question to
    the next, and for which CoreDNS gives the same answer.   quick: the short scenario.
    """

    rate: float = 200.0
    outage: float = 60.0
    refresh: float = 5.0
    dns_ttl: float = 30.0
    quick: bool = False


@dataclass
class Scenario:
    """Runs one mode's scenario on a cluster; `say` is called with every step's title when it begins."""

    cluster: Cluster
    mode: Mode
    site: Site
    options: Options
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    retries: bool = False
    pods: int = START

    def __post_init__(self) -> None:
        options = self.options
        self.settings = {"refresh": options.refresh, "dns_ttl": options.dns_ttl, "age": AGE, "outage": options.outage}
        self.within = self.mode.within(self.settings)
        self.pause = PAUSE / 2 if options.quick else PAUSE

    def run(self) -> Record:
        """All of it. The pair is taken away again, and the API server started, whatever happens. Raises ExperimentError."""
        version, nodes = self.cluster.check()
        self.say(f"deploying {self.mode.name}")
        self._requests, self._counted = 0, self.cluster.requests()
        try:
            client = self.cluster.settings(
                "client", CLIENT__RATE=f"{self.options.rate:g}", LOG__FORMAT="json", CLIENT__RETRY__ATTEMPTS="1"
            )
            self.cluster.deploy(self.mode.name, client, SHARED_PROCESSES)
            self.cluster.scale(START)
            self.cluster.rolled_out("server")
            self.settings["min_ready"] = self.cluster.min_ready()
            self._observer = Observer(self.cluster)
            try:
                self._observer.start()
                self._all_answer()
                self._plan()
                return self._record(version, nodes)
            finally:
                self._observer.close()
        finally:
            self.cluster.undeploy()

    def _plan(self) -> None:
        """Without retries first, which would hide what pods that come and go cost; then with them, and with worse."""
        with self._stepping("steady", "steady"):
            time.sleep(2 * self.pause)
        self._scale("scale up", UP)
        self._scale("scale down", DOWN)
        self._roll_out("roll out")
        with self._stepping("retries on", "client with retries"):
            self.retries = True
            self.cluster.set("client", CLIENT__RETRY__ATTEMPTS="3")
            self._all_answer()
        self._kill()
        if self.options.quick:
            return
        self._disturb()
        if self.mode.pushed:
            self._roll_out("roll out again")
        if self.mode.contrast:
            self._contrast(self.mode.contrast)

    def _contrast(self, age: str) -> None:
        """What MaxConnectionAge does, or what its lack does: long enough for it to be seen."""
        with self._stepping("other age", "no MaxConnectionAge" if age == "none" else f"MaxConnectionAge {age}"):
            self.cluster.set("server", SERVER__MAX_CONNECTION_AGE=age)
            self._changed()
            self._settle()
        self.within = None
        self._scale("scale up again", self.pods + 2, seconds=1.5 * AGE)

    def _scale(self, act: Act, pods: int, seconds: float | None = None) -> None:
        with self._stepping(act, f"{'scale up' if pods > self.pods else 'scale down'} to {pods}"):
            self.pods = pods
            self.cluster.scale(pods)
            self._changed()
            self._settle(seconds)

    def _roll_out(self, act: Act) -> None:
        with self._stepping(act, f"roll out {self.pods} new"):
            self.cluster.roll_out()
            self._changed()
            self._settle()

    def _kill(self) -> None:
        """The one that serves most, so that in every mode there is something to lose."""
        pods = self._observer.ready()
        recent = self._observer.seconds[-3:]
        victim = max(pods, key=lambda pod: sum(second.served.get(pod, 0) for second in recent))
        with self._stepping("kill", "kill a pod"):
            self.cluster.kill(victim)
            self._changed()
            self._observer.wait_for(lambda: victim not in self._observer.ready(), PAUSE)
            self._settle()

    def _disturb(self) -> None:
        """What the site allows."""
        if self.site.restart_dns:
            with self._stepping("restart DNS", "restart CoreDNS"):
                disturb(self.site.restart_dns)
                self._changed()
                self._settle(2 * PAUSE)
        else:
            self._leave_out("restart CoreDNS", "RESTART_DNS names no command")
        if not (self.site.stop_api and self.site.start_api):
            return self._leave_out("stop the API server", "STOP_API and START_API name no commands")
        self._count()
        try:
            with self._stepping("stop API", f"API server stopped {self.options.outage:g} s"):
                disturb(self.site.stop_api)
                self.cluster.wait_until(answers=False)
                self._changed()
                time.sleep(self.options.outage)
        finally:
            disturb(self.site.start_api)
        pods = AGAIN if self.mode.pushed else START
        with self._stepping("start API", f"API back, scale to {pods}"):
            self.cluster.wait_until(answers=True)
            began = self.steps[-1].ended
            if not self._observer.wait_for(lambda: self._observer.listed > began, PATIENCE):
                raise ExperimentError("the pods cannot be watched after the return of the API server")
            self._counted = 0  # it counts anew
            self.pods = pods
            self.cluster.scale(pods)
            self._changed()
            self._settle()

    def _leave_out(self, what: str, why: str) -> None:
        self.skipped[what] = why
        self.say(f"left out: to {what}, because {why}")

    def _settle(self, seconds: float | None = None) -> None:
        """Until as many pods as wanted are ready, no other is left, and those are called which will be; then some seconds more."""
        if not self._observer.wait_for(
            lambda: len(self._observer.ready()) == self.pods and not self._observer.ending(), PATIENCE
        ):
            ready, ending = len(self._observer.ready()), len(self._observer.ending())
            raise ExperimentError(
                f"{ready} servers are ready and {ending} are ending after {PATIENCE:.0f} s; there should be {self.pods} and 0"
            )
        if self.within is not None:
            self._observer.wait_for(self._all_heard, self.within + 2 * PAUSE)
        time.sleep(self.pause if seconds is None else seconds)

    def _all_heard(self) -> bool:
        """Whether all have answered the newest client."""
        return list(self._observer.heard.values())[-1].issuperset(self._observer.ready())

    def _all_answer(self) -> None:
        """Until one client is left, and whoever is to be called was called. Raises ExperimentError."""
        observer, wanted = self._observer, 1 if self.mode.spread == "one" else self.pods

        def answered() -> bool:
            clients = observer.ready("client")
            return len(clients) == 1 and len(observer.heard.get(clients[0], ())) >= wanted and not observer.ending()

        if not observer.wait_for(answered, PATIENCE):
            answers = {client: len(heard) for client, heard in observer.heard.items()}
            raise ExperimentError(
                f"the client was to be answered by {wanted} servers in {PATIENCE:.0f} s; answers: {answers or 'none'}"
            )

    @contextmanager
    def _stepping(self, act: Act, title: str) -> Iterator[None]:
        began = time.time()
        self._moment = began
        self.say(title)
        yield
        self.steps.append(Step(act, title, began, self._moment, time.time(), self.pods, self.retries))

    def _changed(self) -> None:
        """The change of this step is made."""
        self._moment = time.time()

    def _count(self) -> None:
        """Take in the requests that the API server has counted since the last time."""
        now = self.cluster.requests()
        if now is not None and self._counted is not None:
            self._requests += now - self._counted
        self._counted = now

    def _record(self, version: str, nodes: int) -> Record:
        self._count()
        observer, begin = self._observer, self.steps[0].began
        cost = Cost(
            self.cluster.may_read_slices(), None if self._counted is None else self._requests, observer.events, observer.bytes
        )
        return Record(
            mode=self.mode.name,
            rate=self.options.rate,
            when=datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%d"),
            kubernetes=version,
            nodes=nodes,
            clocks=round(observer.behind, 4),
            settings=self.settings,
            quick=self.options.quick,
            steps=tuple(
                replace(
                    step,
                    began=_since(begin, step.began),
                    changed=_since(begin, step.changed),
                    ended=_since(begin, step.ended),
                )
                for step in self.steps
            ),
            changes=tuple(
                Change(_since(begin, each.at), self._short(each.pod), each.role, each.what) for each in observer.changes
            ),
            seconds=tuple(
                Second(
                    _since(begin, each.at),
                    {self._short(pod): count for pod, count in each.served.items()},
                    each.errors,
                    each.skipped,
                    each.slow,
                )
                for each in sorted(observer.seconds, key=lambda each: each.at)
                if each.at - 0.5 >= begin
            ),
            firsts=tuple(First(_since(begin, each.at), self._short(each.server)) for each in observer.firsts),
            cost=cost,
            skipped=self.skipped,
        )

    def _short(self, pod: str) -> str:
        return pod.removeprefix(f"{self.cluster.slug}-").removeprefix("server-")


def _since(begin: float, at: float) -> float:
    return round(at - begin, 3)
