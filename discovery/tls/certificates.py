"""Certificate files that change: the last good set of them, as gRPC's credentials, and a callback for every new one.

The issuer (cert-manager, SPIFFE's agent) renews a certificate long before it expires, by writing new files. gRPC Python does not read
files (`grpc.ssl_channel_credentials` takes bytes, once), so they are watched here. Unusable files never reach gRPC.
"""

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from ..errors import CertificateError, report
from .pem import Pem, PemFiles

logger = logging.getLogger(__package__)

OnChange = Callable[[grpc.ChannelCredentials], None]


@dataclass(frozen=True, slots=True)
class _Good:
    """A good set, and the credentials made from it."""

    pem: Pem
    credentials: grpc.ChannelCredentials


@dataclass(slots=True)
class _Subscriber:
    on_change: OnChange
    on_end: Callable[[], None]
    inherited: bool
    told: _Good | None
    """The last set that it was called with; None if it raised then."""
    failed: _Good | None = None
    """The last set with which it raised."""


class CertificateFiles:
    """PEM files that `secure_channel` watches, in place of grpc.ChannelCredentials.

    ca: CAs that the other side's certificate must come from; empty means the system's.
    certificate, key: presented to the other side (mTLS), the leaf certificate first; empty presents none.
    refresh: seconds between checks of the files.

    Files are checked while there is a subscriber; every channel opened with them is one. A new set is used once it is complete: all
    files can be read, and the key matches the certificate. Until then, the last good set stays in use, and a warning is logged once.
    Raises CertificateError if there is no good set at the start.
    """

    def __init__(self, *, ca: str = "", certificate: str = "", key: str = "", refresh: float = 10.0) -> None:
        for given, path, other, missing in (("certificate", certificate, "key", key), ("key", key, "certificate", certificate)):
            if path and not missing:
                raise CertificateError(given, path, f"needs its {other} beside it")
        if not 0.01 <= refresh <= 86400:
            raise CertificateError("refresh", str(refresh), "must be between 0.01 and 86400 seconds")
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.refresh = refresh
        self._files = PemFiles(ca, certificate, key)
        self._good = _usable(self._files.read())
        self._problem = ""
        self._ended: queue.SimpleQueue[object] = queue.SimpleQueue()  # tokens of those who unsubscribed
        self._lock = threading.Lock()  # guards the two below, and the replacement of _good
        self._subscribers: dict[object, _Subscriber] = {}
        self._following = False
        _instances.add(self)

    @property
    def pem(self) -> Pem:
        """The last good set."""
        return self._good.pem

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """The last good set for a channel: the same object until the files change."""
        return self._good.credentials

    def checked_credentials(self) -> grpc.ChannelCredentials:
        """The same, after a check of the files if they are not being followed, as for a first channel long after the start."""
        if not self._following:
            self.check()
        return self.credentials

    def server_credentials(self, *, require_client: bool = False) -> grpc.ServerCredentials:
        """For a server's port: every handshake uses the current good set; open connections are not affected.

        The files are watched only while there is a subscriber.
        """
        known = self.pem

        def configuration() -> grpc.ServerCertificateConfiguration:
            pem = self.pem
            return grpc.ssl_server_certificate_configuration([(pem.key or b"", pem.certificate or b"")], pem.ca)

        def fetch() -> Any:  # the type stub has no None, which means that nothing has changed
            nonlocal known
            if self.pem is known:
                return None
            known = self.pem
            return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client)

    def subscribe(
        self, on_change: OnChange, *, inherited: bool = True, on_end: Callable[[], None] = lambda: None
    ) -> Callable[[], None]:
        """Call `on_change` with every new set, on a thread of this object. Returns a function that unsubscribes.

        If `on_change` raises, that is logged, and it is called again at the next check. The returned function may be called anywhere,
        also in a finalizer or a signal handler; a call of `on_change` that has begun goes on. In a forked child, `on_change` is
        called if it is `inherited`. `on_end` is called on the same thread after the end. Raises RuntimeError if no thread can be
        started.
        """
        token = object()
        with self._lock:
            self._subscribers[token] = _Subscriber(on_change, on_end, inherited, self._good)
            following = self._following
        if not following:
            try:
                self._start()
            except BaseException:
                with self._lock:
                    del self._subscribers[token]
                raise
        return lambda: self._ended.put(token)

    def check(self) -> bool:
        """Check the files now; returns whether there is a new good set, after the subscribers were called."""
        changed = False
        try:
            pem = self._files.read()
            if pem != self.pem:
                fresh = _usable(pem)
                with self._lock:
                    changed = pem != self.pem
                    if changed:
                        self._good = fresh
            problem = ""
        except CertificateError as error:
            problem = str(error)
        before, self._problem = self._problem, problem
        if problem and problem != before:
            report(logger.warning, "%s; the last good certificate stays in use", problem)
        if changed:
            report(logger.info, "new TLS files: %s", ", ".join(filter(None, (self.certificate, self.key, self.ca))))
        self._tell()
        return changed

    def _tell(self) -> None:
        """Call every subscriber that was not called with the current set."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._forget(self._ended.get_nowait())
        good = self._good
        with self._lock:
            subscribers = list(self._subscribers.values())
        for subscriber in subscribers:
            with self._lock:
                told, subscriber.told = subscriber.told, good
            if told is good:
                continue
            try:
                subscriber.on_change(good.credentials)
            except Exception:
                subscriber.told = None
                before, subscriber.failed = subscriber.failed, good
                if before is not good:
                    report(logger.exception, "a subscriber of TLS files failed; it is called again at every check")

    def _forget(self, token: object) -> None:
        with self._lock:
            subscriber = self._subscribers.pop(token, None)
        if subscriber is not None:
            try:
                subscriber.on_end()
            except Exception:
                report(logger.exception, "the end of a subscription to TLS files failed")

    def _start(self) -> None:
        threading.Thread(target=self._follow, name="discovery certificates", daemon=True).start()

    def _follow(self) -> None:
        """Check the files, at once and then every `refresh` seconds, while there are subscribers."""
        with self._lock:
            if self._following:  # two subscribed at the same time, and each started a thread
                return
            self._following = True
        due = time.monotonic()
        while self._wanted():
            try:
                self._forget(self._ended.get(timeout=max(0.0, due - time.monotonic())))
                continue
            except queue.Empty:
                due = time.monotonic() + self.refresh
            try:
                self.check()
            except Exception:
                report(logger.exception, "the check of TLS files failed; the next one is in %g s", self.refresh)

    def _wanted(self) -> bool:
        with self._lock:
            if not self._subscribers:
                self._following = False
            return self._following

    def after_fork(self) -> None:
        """In the child: the thread does not exist there, and it may have held the lock."""
        self._lock = threading.Lock()
        self._ended = queue.SimpleQueue()
        self._following = False
        self._subscribers = {token: each for token, each in self._subscribers.items() if each.inherited}
        if self._subscribers:
            with contextlib.suppress(RuntimeError):  # no thread can be started: the next `subscribe` tries it again
                self._start()


Credentials = grpc.ChannelCredentials | CertificateFiles
"""The credentials of a secure channel."""


def current(credentials: Credentials) -> grpc.ChannelCredentials:
    """The current credentials for gRPC."""
    return credentials.credentials if isinstance(credentials, CertificateFiles) else credentials


def _usable(pem: Pem) -> _Good:
    return _Good(pem, grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate))


_instances: "weakref.WeakSet[CertificateFiles]" = weakref.WeakSet()


def _after_fork() -> None:
    for files in list(_instances):
        files.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
