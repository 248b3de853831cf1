"""A certificate authority for tests: certificates for any names and lifetime, and files as a mounted Secret has them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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
        name = _name("test CA")
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
            # The names are in the extension; the subject counts for nothing.
            _builder(_name("test"), self._certificate.subject, key.public_key(), lifetime)
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


def write(folder: Path, content: dict[str, bytes]) -> None:
    """Files that only this user can read, each replaced whole."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in content.items():
        with open(os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.replace(folder / f".{name}", folder / name)


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
