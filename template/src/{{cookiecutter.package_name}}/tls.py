"""TLS for server and client: settings in, credentials that follow their files out."""

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc

from .discovery import CertificateError, CertificateFiles
from .settings import Settings


class TlsError(Exception):
    """TLS cannot be had as the settings want it; the text names the setting and what to do."""


def client_files(settings: Settings) -> CertificateFiles | None:
    """What a channel is opened with; None for plaintext. Raises TlsError."""
    tls = settings.tls
    if tls.mode == "off":
        return None
    shown = tls.mode == "mtls"
    with _named_by_setting():
        return CertificateFiles(
            ca=tls.ca, certificate=tls.certificate if shown else "", key=tls.key if shown else "", refresh=tls.refresh
        )


def server_files(settings: Settings) -> CertificateFiles | None:
    """What a port is opened with; None for plaintext. Raises TlsError."""
    tls = settings.tls
    if tls.mode == "off":
        return None
    if not tls.certificate:
        raise TlsError(f"TLS__MODE={tls.mode} with TLS__CERTIFICATE empty gives a server nothing to show; name its PEM file")
    with _named_by_setting():
        return CertificateFiles(
            ca=tls.ca if tls.mode == "mtls" else "", certificate=tls.certificate, key=tls.key, refresh=tls.refresh
        )


def server_credentials(files: CertificateFiles, *, require_client: bool) -> grpc.ServerCredentials:
    """Credentials whose every handshake takes what `files` hold then; connections that stand are not touched. They are
    followed only while somebody is subscribed to them."""
    known = files.pem

    def configuration() -> grpc.ServerCertificateConfiguration:
        pem = files.pem
        return grpc.ssl_server_certificate_configuration([(pem.key or b"", pem.certificate or b"")], pem.ca)

    def fetch() -> Any:  # the type stub knows no None, which means that nothing has changed
        nonlocal known
        if files.pem is known:
            return None
        known = files.pem
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client)


@contextlib.contextmanager
def _named_by_setting() -> Iterator[None]:
    try:
        yield
    except CertificateError as error:
        raise TlsError(
            f"TLS__{error.name.upper()}={error.path} {error.reason}; see TLS__CERTIFICATE, TLS__KEY and TLS__CA"
        ) from None
