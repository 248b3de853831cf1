"""`python -m discovery resolve|watch TARGET` shows the endpoints of a target, as `dig` shows those of a DNS name."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from . import terminal
from .config import FAMILIES, Config, Dns, Empty, Etcd, Kubernetes
from .errors import DiscoveryError, NotSyncedError, TargetError, printable
from .resolving.failover import open_resolver
from .resolving.publisher import Publisher
from .snapshot import Snapshot
from .status import Status
from .target import Target, parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status 0: endpoints found, 1: none found in time, 2: an invalid target or option."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding lacks
    options = _parser().parse_args(arguments)
    logging.getLogger(__package__).addHandler(logging.NullHandler())  # errors are part of the output
    try:
        for module in options.modules:
            _import(module)
        target = _resolvable(options.target)
        settings = _config(options)
        resolver = open_resolver(target, settings)
    except DiscoveryError as error:
        print(f"{_parser().prog}: {error}", file=sys.stderr)
        return 2
    commands: dict[str, Callable[[Publisher, argparse.Namespace], int]] = {"resolve": resolve, "watch": watch}
    try:
        return commands[options.command](resolver, options)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        resolver.close()


def resolve(resolver: Publisher, options: argparse.Namespace) -> int:
    """Print the set once."""
    resolver.start()
    try:
        resolver.wait_until_synced(options.timeout)
    except NotSyncedError as error:
        print(f"{_parser().prog}: {error}", file=sys.stderr)
        return 1
    if options.health:
        time.sleep(min(options.timeout, 0.3))  # time for the endpoints to answer; the others stay unknown
    status = resolver.status
    if options.json or status.snapshot:
        print(terminal.as_json(status) if options.json else terminal.table(status))
    for problem in status.problems:
        print(f"{_parser().prog}: {printable(problem)}", file=sys.stderr)
    return 0 if status.snapshot else 1


def watch(resolver: Publisher, options: argparse.Namespace) -> int:
    """Follow the set until SIGINT or SIGTERM: a live table on a terminal, otherwise a line for each change."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if not options.json and sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return _live(resolver, stopping)
    last: list[Status] = []
    changed = threading.Event()
    resolver.subscribe(lambda status: changed.set())
    resolver.start()
    while not stopping.is_set():
        changed.wait(0.2)
        changed.clear()
        _tell(last[-1] if last else None, status := resolver.status, options.json)
        last[:] = [status]
    return 0


def _live(resolver: Publisher, stopping: threading.Event) -> int:
    from rich.live import Live

    resolver.start()
    ages = terminal.Ages()
    with Live(terminal.live(resolver.status, ages), refresh_per_second=8) as shown:
        while not stopping.wait(0.125):
            shown.update(terminal.live(resolver.status, ages))
    return 0


def _tell(before: Status | None, now: Status, json: bool) -> None:
    old: Snapshot | None = before.snapshot if before else None
    moved = now.snapshot is not None and now.snapshot != old
    troubled = (now.last_error, now.suspicious, now.problems) != (
        (before.last_error, before.suspicious, before.problems) if before else (None, None, ())
    )
    if json and (moved or troubled):
        print(terminal.as_json(now), flush=True)
    elif not json:
        at = time.strftime("%H:%M:%S")
        for line in terminal.changes(old, now.snapshot) if moved and now.snapshot is not None else ():
            print(f"{at}  {line}", flush=True)
        if moved or troubled:
            print(f"{at}  {terminal.summary(now)}", flush=True)


def _import(module: str) -> None:
    """Import a module of the user's, which registers a source. Raises TargetError."""
    try:
        importlib.import_module(module)
    except Exception as error:
        raise TargetError(f"'--import {module}': {type(error).__name__}: {error}") from None


def _resolvable(text: str) -> Target:
    target = parse(text)
    if not target.ours:
        advice = f"; try dns-poll:///{target.name}" if target.scheme == "dns" else ""
        raise TargetError(f"target '{text}' is resolved by gRPC itself and cannot be shown{advice}")
    return target


def _config(options: argparse.Namespace) -> Config:
    return Config(
        zone=options.zone,
        empty=Empty.parse(options.empty) if options.empty else None,
        health="" if options.health else None,
        dns=Dns(refresh=options.refresh, servers=tuple(options.server), family=options.family),
        etcd=_etcd(options.etcd),
        kubernetes=Kubernetes(kubeconfig=options.kubeconfig, context=options.context),
    )


def _etcd(endpoints: list[str]) -> Etcd:
    """Reads etcdctl's variables (etcd's etcdctl/README.md), so that what works for etcdctl works here."""

    def variable(name: str) -> str:
        return os.environ.get(f"ETCDCTL_{name}", "")

    listed = endpoints or [item for item in variable("ENDPOINTS").split(",") if item]
    user, _, password = variable("USER").partition(":")
    return Etcd(
        tuple(listed) or Etcd().endpoints,
        user=user,
        password=variable("PASSWORD") or password,
        ca=variable("CACERT"),
        certificate=variable("CERT"),
        key=variable("KEY"),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="Show which servers are behind a target.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("resolve", "print the servers once"), ("watch", "follow them as they come and go")):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("target", help="such as kubernetes:///service.namespace:grpc or dns-poll:///name:50051")
        command.add_argument(
            "--import",
            action="append",
            default=[],
            dest="modules",
            metavar="MODULE",
            help="import a module that registers a source of your own (discovery.register); may be repeated",
        )
        command.add_argument("--json", action="store_true", help="print a line of JSON for every set")
        command.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the first set (5)")
        command.add_argument(
            "--health",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="health-check the endpoints where the registry does not report health",
        )
        command.add_argument("--zone", default="", help="the client's zone")
        command.add_argument("--empty", default="", help="the policy for an empty answer: keep, fail, hold:SECONDS")
        command.add_argument("--refresh", type=float, default=5.0, help="dns-poll: seconds between queries (5)")
        command.add_argument("--family", choices=FAMILIES, default="any", help="dns-poll: the records to ask for (any)")
        command.add_argument(
            "--server", action="append", default=[], metavar="ADDRESS", help="dns-poll: a DNS server; may be repeated"
        )
        command.add_argument(
            "--etcd",
            action="append",
            default=[],
            metavar="HOST:PORT",
            help="etcd: a member; may be repeated (default: ETCDCTL_ENDPOINTS; the other ETCDCTL_ variables set TLS and user)",
        )
        command.add_argument("--kubeconfig", default="", help="kubernetes: a kubeconfig file (KUBECONFIG)")
        command.add_argument("--context", default="", help="kubernetes: one of its contexts (the current one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
