"""Certificates for development, valid for a week: `make certs`. In production cert-manager or a SPIFFE agent issues them."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustme import CA

SLUG, CERTS = "{{ cookiecutter.project_slug }}", Path("certs")
SETTINGS = ("MODE=mtls", "CERTIFICATE=certs/server/tls.crt", "KEY=certs/server/tls.key", "CA=certs/server/ca.crt")
SIDES = {"server": ("server", "server-headless"), "client": ("client",)}


def issue(namespace: str, *, new_ca: bool) -> dict[str, bytes]:
    """Files by path. The certificate authority (CA) is kept; a new one is trusted beside the previous one."""
    crt, key = CERTS / "ca/tls.crt", CERTS / "ca/tls.key"
    kept = [CA.from_pem(crt.read_bytes(), key.read_bytes())] if key.exists() else []
    trusted = [CA(organization_name=SLUG), *kept] if new_ca or not kept else kept
    files = {"ca/tls.crt": trusted[0].cert_pem.bytes(), "ca/tls.key": trusted[0].private_key_pem.bytes()}
    for side, hosts in SIDES.items():
        ends = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
        names = [f"{SLUG}-{host}{end}" for host in hosts for end in ends] + ["localhost", "127.0.0.1", "::1"] * (side == "server")
        leaf = trusted[0].issue_cert(*names, not_after=datetime.now(UTC) + timedelta(days=7))
        files |= {f"{side}/tls.crt": leaf.cert_chain_pems[0].bytes(), f"{side}/tls.key": leaf.private_key_pem.bytes()}
        files[f"{side}/ca.crt"] = b"".join(each.cert_pem.bytes() for each in trusted)
    return files


os.umask(0o077)
try:
    for name, data in issue(os.environ.get("NAMESPACE") or "default", new_ca=bool(os.environ.get("NEW_CA"))).items():
        (CERTS / name).parent.mkdir(parents=True, exist_ok=True)
        (CERTS / f"{name}.new").write_bytes(data)
        (CERTS / f"{name}.new").replace(CERTS / name)  # as a whole, because running processes read it
except (OSError, TypeError, ValueError) as error:
    sys.exit(f"certs: {error}; correct NAMESPACE, or delete certs/ to begin anew")
print("written to certs/, valid for 7 days; running processes load them by themselves. In .env:\n")
print(*(f"{{ cookiecutter.__prefix }}TLS__{setting}" for setting in SETTINGS), sep="\n")
print("\nA client that runs apart from the server, as on Kubernetes, uses certs/client/ instead.")
