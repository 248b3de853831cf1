"""Short-lived certificates for development and trials: `make certs`. In production cert-manager or SPIFFE's agents issue them.

Writes the layout of a mounted Secret, as cert-manager makes it, for both sides:

    certs/server/   tls.crt  tls.key  ca.crt
    certs/client/   tls.crt  tls.key  ca.crt
    certs/ca/       tls.crt  tls.key          the authority, kept for the next time

Run again it renews both certificates. A new authority (`make certs NEW_CA=1`) is believed beside the one before, so that
running servers and clients go on.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from {{ cookiecutter.package_name }}.defaults import SERVER_NAME, SERVICE

LEAF = timedelta(days=7)
AUTHORITY = timedelta(days=30)
SKEW = timedelta(minutes=5)
"""By how much a clock may be behind."""

_CURVE = ec.SECP256R1()


@dataclass(frozen=True)
class Certificate:
    """PEM of a certificate and of its key."""

    certificate: bytes
    key: bytes


class Authority:
    """Issues certificates for both roles of TLS. A new one, or one that was written before."""

    def __init__(self, lifetime: timedelta = AUTHORITY, *, known: Certificate | None = None) -> None:
        if known is not None:
            key = serialization.load_pem_private_key(known.key, None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("its key is none of ours")
            self._key, self._certificate = key, x509.load_pem_x509_certificate(known.certificate)
            return
        self._key = ec.generate_private_key(_CURVE)
        name = _name(f"{SERVICE} development authority")
        self._certificate = (
            _builder(name, name, self._key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """What others must believe."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def ends(self) -> datetime:
        return self._certificate.not_valid_after_utc

    @property
    def both(self) -> Certificate:
        """To go on with another time."""
        return Certificate(self.certificate, _private(self._key))

    def issue(self, names: Iterable[str], lifetime: timedelta = LEAF) -> Certificate:
        """A certificate for these names: DNS names, IP addresses, and URIs such as spiffe://cluster.local/ns/shop/sa/client."""
        key = ec.generate_private_key(_CURVE)
        certificate = (
            # The names are in the extension; a subject of 64 characters at the most says nothing that counts.
            _builder(_name(SERVICE), self._certificate.subject, key.public_key(), lifetime)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Certificate(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def server_names(namespace: str) -> list[str]:
    """The Service's names, with and without -headless, as any target writes them; the loopback; and SPIFFE's."""
    services = (SERVER_NAME, f"{SERVER_NAME}-headless")
    suffixes = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
    dns = [service + suffix for service in services for suffix in suffixes]
    return [*dns, "localhost", "127.0.0.1", "::1", f"spiffe://cluster.local/ns/{namespace}/sa/{SERVER_NAME}"]


def client_names(namespace: str) -> list[str]:
    """One DNS name and SPIFFE's."""
    return [f"{SERVICE}-client", f"spiffe://cluster.local/ns/{namespace}/sa/{SERVICE}-client"]


def write(folder: Path, content: dict[str, bytes]) -> None:
    """Files that only this user can read, each replaced whole."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in content.items():
        with open(os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.replace(folder / f".{name}", folder / name)


def renew(folder: Path, namespace: str, *, new_authority: bool = False) -> None:
    """Both certificates anew; the authority too where it ends too soon, or where that is wanted."""
    before = _known(folder / "ca")
    now = datetime.now(UTC)
    replace = before is None or new_authority or before.ends < now + LEAF
    authority = Authority() if before is None or replace else before
    believed = authority.certificate
    if replace and before is not None and before.ends > now:
        believed += before.certificate
    write(folder / "ca", {"tls.crt": authority.both.certificate, "tls.key": authority.both.key})
    for side, names in (("server", server_names(namespace)), ("client", client_names(namespace))):
        issued = authority.issue(names)
        write(folder / side, {"ca.crt": believed, "tls.key": issued.key, "tls.crt": issued.certificate})


def main() -> None:
    """Write them, and say what to set."""
    parser = argparse.ArgumentParser(prog="make certs", description="Short-lived certificates for development.")
    parser.add_argument("--folder", type=Path, default=Path("certs"))
    parser.add_argument("--namespace", default="default", help="the namespace in the names")
    parser.add_argument("--new-authority", action="store_true", help="believed beside the one before")
    arguments = parser.parse_args()
    try:
        renew(arguments.folder, arguments.namespace, new_authority=arguments.new_authority)
    except (OSError, ValueError) as error:
        print(f"certs: {arguments.folder} cannot be used: {error}; delete it, or name another folder", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"written to {arguments.folder}/, good for {LEAF.days} days; running processes take them up by themselves. In .env:\n")
    print("TLS__MODE=mtls")
    for setting, name in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("CA", "ca.crt")):
        print(f"TLS__{setting}={arguments.folder}/server/{name}")
    print(f"\nA client of its own, as on Kubernetes, takes {arguments.folder}/client/ instead.")


def _known(folder: Path) -> Authority | None:
    if not (folder / "tls.key").exists():
        return None
    return Authority(known=Certificate((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


if __name__ == "__main__":
    main()
