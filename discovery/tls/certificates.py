"""Certificate files that change: the last good set of them, as gRPC's credentials, and a callback for every new one.

The issuer (cert-manager, SPIFFE's agent) renews a certificate long before it expires, by writing new files. gRPC Python does not read
files (`grpc.ssl_channel_credentials` takes bytes, once), so they are watched here. Unusable files never reach gRPC.
"""

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from ..errors import CertificateError

logger = logging.getLogger(__package__)

OnChange = Callable[[grpc.ChannelCredentials], None]


@dataclass(frozen=True, slots=True)
class Pem:
    """The contents of the files at one moment; None for a file that is not set. Never shown: one is a private key."""

    ca: bytes | None = field(repr=False)
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


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
        self._lock = threading.Lock()  # guards all below
        self._pem = self._read()
        self._credentials = _channel_credentials(self._pem)
        self._problem = ""
        self._subscribers: dict[object, OnChange] = {}
        self._following: threading.Event | None = None  # set to end the thread

    @property
    def pem(self) -> Pem:
        """The last good set."""
        with self._lock:
            return self._pem

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """The last good set for a channel: the same object until the files change."""
        with self._lock:
            return self._credentials

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

    def subscribe(self, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` with every new set, on a thread of this object. Returns a function that unsubscribes."""
        token = object()
        with self._lock:
            self._subscribers[token] = on_change
            if self._following is None:
                self._following = threading.Event()
                threading.Thread(target=self._follow, args=(self._following,), name="discovery certificates", daemon=True).start()

        def end() -> None:
            with self._lock:
                self._subscribers.pop(token, None)
                if not self._subscribers and self._following is not None:
                    self._following.set()
                    self._following = None

        return end

    def check(self) -> bool:
        """Check the files now; returns whether there is a new good set, after the subscribers were called."""
        try:
            pem, problem = self._read(), ""
        except CertificateError as error:
            pem, problem = None, str(error)
        with self._lock:
            before, self._problem = self._problem, problem
            changed = pem is not None and pem != self._pem
            if changed and pem is not None:
                self._pem, self._credentials = pem, _channel_credentials(pem)
            credentials, subscribers = self._credentials, list(self._subscribers.values())
        if problem and problem != before:
            logger.warning("%s; the last good certificate stays in use", problem)
        if changed:
            logger.info("new TLS files: %s", ", ".join(filter(None, (self.certificate, self.key, self.ca))))
            for on_change in subscribers:
                on_change(credentials)
        return changed

    def _follow(self, ended: threading.Event) -> None:
        while not ended.wait(self.refresh):
            self.check()

    def _read(self) -> Pem:
        """The contents of all files at one moment. Raises CertificateError for an incomplete set."""
        for _ in range(3):
            pem = self._bytes()
            self._check()
            if pem == self._bytes():
                return pem
        raise CertificateError("certificate", self.certificate, "changes faster than it can be read")

    def _bytes(self) -> Pem:
        return Pem(_file("ca", self.ca), _file("certificate", self.certificate), _file("key", self.key))

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            try:
                context.load_verify_locations(self.ca)
            except (OSError, ValueError):
                raise CertificateError("ca", self.ca, "holds no certificate in PEM") from None
        if self.certificate:
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except ssl.SSLError as error:
                if error.reason == "KEY_VALUES_MISMATCH":
                    raise CertificateError("key", self.key, f"does not fit the certificate '{self.certificate}'") from None
                raise CertificateError(*self._unreadable()) from None
            except (OSError, ValueError):
                raise CertificateError(*self._unreadable()) from None

    def _unreadable(self) -> tuple[str, str, str]:
        """Which of certificate and key is unusable: the ssl module has the same error for both."""
        with contextlib.suppress(OSError, ValueError):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.certificate)
            return "key", self.key, "holds no private key in PEM, or one behind a password"
        return "certificate", self.certificate, "holds no certificate in PEM"


Credentials = grpc.ChannelCredentials | CertificateFiles
"""The credentials of a secure channel."""


def current(credentials: Credentials) -> grpc.ChannelCredentials:
    """The current credentials for gRPC."""
    return credentials.credentials if isinstance(credentials, CertificateFiles) else credentials


def _channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def _file(name: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(name, path, f"cannot be read: {os.strerror(error.errno or 0)}") from None


def _no_password() -> str:
    """In place of OpenSSL's prompt on the terminal."""
    raise ValueError
