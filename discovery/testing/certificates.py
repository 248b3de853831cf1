"""Certificates for development, valid for a week. In production cert-manager or a SPIFFE agent issues them.

    python -m discovery.testing.certificates greeter GREETER__

writes certs/{ca,server,client} for the Services greeter-server and greeter-server-headless and the client greeter-client, and prints the settings
that use them, with this prefix. The variables NAMESPACE (default) and NEW_CA (1: a new certificate authority) apply.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

CERTS = Path("certs")
SETTINGS = ("MODE=mtls", "CERTIFICATE=certs/server/tls.crt", "KEY=certs/server/tls.key", "CA=certs/server/ca.crt")
SIDES = {"server": ("server", "server-headless"), "client": ("client",)}


def issue(name: str, namespace: str, *, new_ca: bool = False) -> dict[str, bytes]:
    """Files by path below certs/. The certificate authority (CA) is kept; a new one is trusted beside the previous one.

    Raises OSError, ValueError, TypeError for files of a CA that cannot be used, and ImportError without trustme.
    """
    from trustme import CA

    crt, key = CERTS / "ca/tls.crt", CERTS / "ca/tls.key"
    kept = [CA.from_pem(crt.read_bytes(), key.read_bytes())] if key.exists() else []
    trusted = [CA(organization_name=name), *kept] if new_ca or not kept else kept
    files = {"ca/tls.crt": trusted[0].cert_pem.bytes(), "ca/tls.key": trusted[0].private_key_pem.bytes()}
    for side, hosts in SIDES.items():
        ends = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
        names = [f"{name}-{host}{end}" for host in hosts for end in ends] + ["localhost", "127.0.0.1", "::1"] * (side == "server")
        leaf = trusted[0].issue_cert(*names, not_after=datetime.now(UTC) + timedelta(days=7))
        files |= {f"{side}/tls.crt": leaf.cert_chain_pems[0].bytes(), f"{side}/tls.key": leaf.private_key_pem.bytes()}
        files[f"{side}/ca.crt"] = b"".join(each.cert_pem.bytes() for each in trusted)
    return files


def main(name: str, prefix: str) -> None:
    """Write them, each file as a whole, because running processes read it; readable by their owner only."""
    os.umask(0o077)
    try:
        files = issue(name, os.environ.get("NAMESPACE") or "default", new_ca=bool(os.environ.get("NEW_CA")))
        for path, data in files.items():
            (CERTS / path).parent.mkdir(parents=True, exist_ok=True)
            (CERTS / f"{path}.new").write_bytes(data)
            (CERTS / f"{path}.new").replace(CERTS / path)
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"certs: {error}; correct NAMESPACE, or delete certs/ to begin anew")
    print("written to certs/, valid for 7 days; running processes load them by themselves. In .env:\n")
    print(*(f"{prefix}TLS__{setting}" for setting in SETTINGS), sep="\n")
    print("\nA client that runs apart from the server, as on Kubernetes, uses certs/client/ instead.")


if __name__ == "__main__":
    main(*sys.argv[1:])
