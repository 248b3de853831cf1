"""What each mode is, and why it behaved as it did, in plain words around its own figures. Pure."""

import statistics
from collections.abc import Callable, Sequence

from .measure import Seen, drains, listed, median, samples
from .record import Act, Record
from .wording import after, count, spoken


def _passthrough(record: Record, seen: Sequence[Seen]) -> str:
    steady, up, again = step_of(seen, "steady"), step_of(seen, "scale up"), step_of(seen, "scale up again")
    text = """gRPC opens one connection to the Service's own address, and the cluster picks a pod for it. A pod is picked for a connection, not for a
call, and gRPC keeps its connection for as long as it can: so one pod is pinned."""
    if steady is not None:
        most = max(steady.share.values(), default=0)
        text += f""" In the steady step {count(len(steady.share), "pod")} of
{steady.step.pods} answered {most} of {steady.calls} calls."""
    if up is not None and up.found:
        called = sum(pod in up.share for pod in up.found)
        text += f" Of {len(up.found)} pods that scaling up had added, {called or 'none'} got a call in that step."
    text += " Only the end of a connection moves the calls, and then all of them."
    if again is not None:
        text += f"""

In the last step the servers had a MaxConnectionAge of {record.settings["age"]:g} s: they end connections that are older, and the next one may lead elsewhere.
{count(len(again.share), "pod")} of {again.step.pods} answered in {again.step.ended - again.step.began:.0f} s. That spreads calls over time, not over pods: at any moment it is still one."""
    return text


def _native(record: Record, seen: Sequence[Seen]) -> str:
    age, ttl = record.settings["age"], record.settings["dns_ttl"]
    text = f"""gRPC's own resolver asks DNS for the pods of a headless Service and calls them in turn. It asks again only when a connection breaks.
MaxConnectionAge is the usual remedy, and this mode is deployed with it: a server ends each connection at an age of about {age:g} s, gRPC
asks DNS again, and finds what is new. {_found(seen)} The age is what it costs, and then DNS's own {ttl:g} s, in which CoreDNS gives the same answer:
an upper bound, not a quick one; and every client connects anew to every pod, all the time."""
    again = step_of(seen, "scale up again")
    if again is not None and again.found:
        called = sum(pod in again.share for pod in again.found)
        text += f"""

The last step shows what it buys. Without MaxConnectionAge, {called or "none"} of {count(len(again.found), "new pod")} got a call in
{again.step.ended - again.step.began:.0f} s: nothing broke, so DNS was not asked."""
    return text + _lost_to_dns(record, seen)


def _dns(record: Record, seen: Sequence[Seen]) -> str:
    refresh, ttl = record.settings["refresh"], record.settings["dns_ttl"]
    return f"""discovery asks DNS for the pods of a headless Service every {refresh:g} s, whatever the connections do, and keeps the channel as it is. CoreDNS
gives the same answer for up to {ttl:g} s, so a new pod is found within {refresh + ttl:g} s. {_found(seen)} Nothing needs to be allowed, and
no connection needs to break.{_lost_to_dns(record, seen)}"""


def _lost_to_dns(record: Record, seen: Sequence[Seen]) -> str:
    """What DNS's lateness costs when pods are replaced."""
    rolled, waited = step_of(seen, "roll out"), record.settings["min_ready"]
    text = ""
    if rolled is not None and waited:
        text += f"""

DNS is late in the other direction, too: it may name pods that have ended, and not yet those in their place. So a rollout in this mode lets new pods be
ready for {waited:g} s before it ends old ones: it takes {rolled.step.ended - rolled.step.began:.0f} s here, and cost {rolled.failures or "none"} of {rolled.calls} calls."""
    lost = [line for line in seen if line.failures and line.step.act in ("scale down", "roll out", "roll out again", "other age")]
    if lost:
        failed = ", ".join(f"{line.failures} of {line.calls} ({line.step.title})" for line in lost)
        text += f"""

Calls that failed while pods were replaced: {failed}. A pod goes on serving after its SIGTERM for {spoken(drains(record))} (the median here). When all pods that a
client knows have ended before DNS names others, there is no server to call. A drain longer than DNS is late prevents it (`SERVER__DRAIN__WAIT`), and so
does a smaller `ttl` in CoreDNS."""
    return text


def _kubernetes(record: Record, seen: Sequence[Seen]) -> str:
    until = listed(record, seen)
    where = ""
    if until:
        where = f"""Of that, {spoken(max(0.0, statistics.median(until)))} in the median and {spoken(max(0.0, until[-1]))} at most went by until an EndpointSlice
had the pod as ready, which is the work of the cluster's own controller; the rest is the client's."""
    return f"""discovery lists the Service's EndpointSlices and watches them: the API server sends each change when it happens. {_found(seen)}
{where} {_lossless(seen)} What it needs is an account that may read EndpointSlices: see [below](#what-push-buys-and-what-it-costs)."""


def _etcd(record: Record, seen: Sequence[Seen]) -> str:
    found = samples(seen)
    early = sum(late < 0 for late in found)
    text = f"""Servers register themselves in etcd under a lease, and deregister at SIGTERM; clients watch. {_found(seen)}"""
    if early:
        text += (
            f" {early} of {len(found)} were early: a server registers when it listens, the readiness probe asks a moment later."
        )
    return f"{text}\n{_lossless(seen)} Kubernetes' API has no part in it."


def _found(seen: Sequence[Seen]) -> str:
    found, middle = samples(seen), median(seen)
    if middle is None:
        return "No new pod got a call."
    if found[-1] < 0:
        return f"Here all of {len(found)} new pods got their first call before they were Ready."
    text = f"Here the median of {len(found)} new pods got its first call {after(middle)}, the last one {after(found[-1])}."
    back = step_of(seen, "start API")
    if back is not None and found[-1] in back.found.values():
        text += " That one came when the API server had just returned, and waited for the cluster itself: see [below](#when-the-api-server-is-away)."
    return text


def _lossless(seen: Sequence[Seen]) -> str:
    bare = [line for line in seen if not line.step.retries and line.step.act in ("scale up", "scale down", "roll out")]
    failed, calls = sum(line.failures for line in bare), sum(line.calls for line in bare)
    return f"Scaling up, down and rolling out, without a retry, cost {failed or 'none'} of {calls} calls."


ABOUT: dict[str, Callable[[Record, Sequence[Seen]], str]] = {
    "passthrough": _passthrough,
    "native-dns": _native,
    "dns": _dns,
    "kubernetes": _kubernetes,
    "etcd": _etcd,
}


def step_of(seen: Sequence[Seen], act: Act) -> Seen | None:
    """The first step of a kind."""
    return next((line for line in seen if line.step.act == act), None)
