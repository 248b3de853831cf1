"""A certificate authority for tests, and files of its certificates in the layout of a mounted Secret."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
Name = str | x509.GeneralName


class Authority:
    """Issues certificates. certificate: its own, in PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {x509.random_serial_number()}")])
        made = self._builder(self._name, self._key.public_key(), timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = made.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def issue(self, names: Sequence[Name], life: timedelta = timedelta(days=1)) -> tuple[bytes, bytes]:
        """Certificate and key in PEM. A text is a URI, an e-mail address or a DNS name by its looks."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        made = self._builder(subject, key.public_key(), life)
        made = made.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return made.sign(self._key, hashes.SHA256()).public_bytes(PEM), private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + life)
        )


def _general(name: Name) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)


class Secret:
    """tls.crt, tls.key and ca.crt in a folder, replaced all at once, as the kubelet does. names: what its certificates are for."""

    def __init__(self, folder: Path, *names: Name) -> None:
        folder.mkdir()
        self.folder = folder
        self._names = names
        self._issued = 0
        for name in ("ca.crt", "tls.key", "tls.crt"):
            (folder / name).symlink_to(f"..data/{name}")

    def issue(self, authority: Authority, *trusted: Authority, ended: bool = False, names: Sequence[Name] = ()) -> "Secret":
        """A new certificate of `authority`; those of `trusted`, or else of `authority`, are the ones to believe."""
        certificate, key = authority.issue(names or self._names, timedelta(days=-1 if ended else 1))
        self._issued += 1
        version = self.folder / f"..{self._issued}"
        version.mkdir()
        (version / "ca.crt").write_bytes(b"".join(each.certificate for each in trusted or (authority,)))
        (version / "tls.key").write_bytes(key)
        (version / "tls.crt").write_bytes(certificate)
        (self.folder / "next").symlink_to(version.name)
        os.replace(self.folder / "next", self.folder / "..data")
        return self

    def settings(self, mode: str = "mtls") -> dict[str, str]:
        """The section TLS, for a server or a load generator."""
        files = {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
        named = {f"TLS__{setting}": f"{self.folder}/{name}" for setting, name in files.items()}
        return {"TLS__MODE": mode, **named}
