"""Short-lived certificates for development and trials: `make certs`. In production cert-manager or SPIFFE's agents issue them.

Both sides get the layout of a mounted Secret, as cert-manager makes it: tls.crt, tls.key and ca.crt in certs/server and certs/client. The
certificate authority (CA) is kept in certs/ca. Run again, this renews both certificates; a new CA is trusted beside the one before it.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .site import SLUG

LIFETIME, CA_LIFETIME, CLOCK_SKEW = timedelta(days=7), timedelta(days=30), timedelta(minutes=5)
PREFIX = "{{ cookiecutter.__prefix }}TLS__"
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(ca: Pair | None = None, names: Iterable[str] = ()) -> Pair:
    """A certificate for these DNS names, IP addresses and URIs, for both roles of TLS; or a CA, where none is given."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SLUG if ca else f"{SLUG} development CA")])
    issuer, signer = (ca[0].subject, ca[1]) if ca else (subject, key)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"digital_signature": ca is not None, "key_cert_sign": ca is None, "crl_sign": ca is None}
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + (LIFETIME if ca else CA_LIFETIME))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None if ca else 0), critical=True)
        .add_extension(x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if ca:
        roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_name, names)), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(roles), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


def _name(text: str) -> x509.GeneralName:
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def names(side: str, namespace: str) -> list[str]:
    """What the certificate of a side is for: its Services as any target writes them, the loopback, and the SPIFFE ID of its account."""
    services = [f"{SLUG}-server", f"{SLUG}-server-headless"] if side == "server" else [f"{SLUG}-client"]
    domains = ["", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"]
    local = ["127.0.0.1", "::1", "localhost"] if side == "server" else []
    dns = [name + end for name in services for end in domains]
    return [*dns, *local, f"spiffe://cluster.local/ns/{namespace}/sa/{SLUG}-{side}"]


def write(folder: Path, pair: Pair, trusted: bytes = b"") -> None:
    """Files that only this user can read, each replaced as a whole."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {"tls.crt": pair[0].public_bytes(form[0]), "tls.key": pair[1].private_bytes(*form), "ca.crt": trusted}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in files.items():
        if data:
            with open(os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            os.replace(folder / f".{name}", folder / name)


def renew(folder: Path, namespace: str, *, new_ca: bool = False) -> None:
    """Both certificates; the CA too where that is wanted, or where it ends before they would."""
    ca, trusted, now = None, b"", datetime.now(UTC)
    if (folder / "ca" / "tls.key").exists():
        certificate = x509.load_pem_x509_certificate((folder / "ca" / "tls.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca" / "tls.key").read_bytes(), None)
        ca = (certificate, key) if isinstance(key, ec.EllipticCurvePrivateKey) else None
    if ca is None or new_ca or ca[0].not_valid_after_utc < now + LIFETIME:
        trusted = ca[0].public_bytes(serialization.Encoding.PEM) if ca and ca[0].not_valid_after_utc > now else b""
        ca = issue()
    write(folder / "ca", ca)
    for side in ("server", "client"):
        write(folder / side, issue(ca, names(side, namespace)), ca[0].public_bytes(serialization.Encoding.PEM) + trusted)


def main() -> None:
    """Write them, and print the settings that use them."""
    parser = argparse.ArgumentParser(prog="make certs", description="Short-lived certificates for development.")
    parser.add_argument("--folder", type=Path, default=Path("certs"))
    parser.add_argument("--namespace", default="default", help="the namespace in the names")
    parser.add_argument("--new-ca", action="store_true", help="trusted beside the one before it")
    given = parser.parse_args()
    try:
        renew(given.folder, given.namespace, new_ca=given.new_ca)
    except (OSError, ValueError) as error:
        sys.exit(f"certs: {given.folder} cannot be used: {error}; delete it, or name another folder")
    print(f"written to {given.folder}/, valid for {LIFETIME.days} days; running processes load them by themselves. In .env:\n")
    print(f"{PREFIX}MODE=mtls")
    for setting, name in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("CA", "ca.crt")):
        print(f"{PREFIX}{setting}={given.folder}/server/{name}")
    print(f"\nA client that runs apart from the server, as on Kubernetes, uses {given.folder}/client/ instead.")


if __name__ == "__main__":
    main()
