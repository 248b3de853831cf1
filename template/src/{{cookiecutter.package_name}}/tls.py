"""TLS for server and client: settings in, credentials that are reloaded from their files out."""

from .discovery import CertificateError, CertificateFiles
from .settings import Settings, Tls


class TlsError(Exception):
    """The TLS settings cannot be used; the text names the setting and what to do."""


def client_files(settings: Settings) -> CertificateFiles | None:
    """The files for a channel; None for plaintext. Raises TlsError."""
    tls = settings.tls
    shown = tls.mode == "mtls"
    return None if tls.mode == "off" else _files(tls, tls.ca, tls.certificate if shown else "", tls.key if shown else "")


def server_files(settings: Settings) -> CertificateFiles | None:
    """The files for the server's port; None for plaintext. Raises TlsError."""
    tls = settings.tls
    if tls.mode != "off" and not tls.certificate:
        raise TlsError(f"TLS__MODE={tls.mode} needs TLS__CERTIFICATE for a server; set it to a PEM file")
    return None if tls.mode == "off" else _files(tls, tls.ca if tls.mode == "mtls" else "", tls.certificate, tls.key)


def _files(tls: Tls, ca: str, certificate: str, key: str) -> CertificateFiles:
    try:
        return CertificateFiles(ca=ca, certificate=certificate, key=key, refresh=1.0)
    except CertificateError as error:
        raise TlsError(
            f"TLS__{error.name.upper()}={error.path} {error.reason}; see TLS__CERTIFICATE, TLS__KEY and TLS__CA"
        ) from None
