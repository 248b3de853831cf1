"""PEM files in, one usable set of their contents out: CA, certificate, and key of the same moment."""

import contextlib
import os
import ssl
from dataclasses import dataclass, field

from ..errors import CertificateError


@dataclass(frozen=True, slots=True)
class Pem:
    """The contents of the files at one moment; None for a file that is not set. Never shown: one is a private key."""

    ca: bytes | None = field(repr=False)
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class PemFiles:
    """Paths; empty for a file that is not set."""

    ca: str
    certificate: str
    key: str

    def read(self) -> Pem:
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
