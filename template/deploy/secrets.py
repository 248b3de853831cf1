"""What `make certs` has written, as the Secrets of components/mtls, in cert-manager's layout."""

import base64
import json
from pathlib import Path

from .kubectl import Kubectl
from .manifests import CLIENT, SERVER
from .site import FOLDER, RefusedError

CERTIFICATES = FOLDER.parent / "certs"
FILES = ("tls.crt", "tls.key", "ca.crt")


def write(kubectl: Kubectl, dry_run: bool, folder: Path = CERTIFICATES) -> None:
    """Both, new or renewed. Raises RefusedError where the files are not there."""
    for name in (SERVER, CLIENT):
        side = folder / name.rpartition("-")[2]
        try:
            data = {file: base64.b64encode((side / file).read_bytes()).decode() for file in FILES}
        except OSError as error:
            raise RefusedError(f"{error.filename} cannot be read: {error.strerror}; make certs writes it") from None
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": f"{name}-tls"},
            "data": data,
        }
        if dry_run:
            print(f"would write the Secret {name}-tls from {side}")
            continue
        # Server-side, or kubectl would keep a copy of the key in an annotation.
        who = ("--server-side", "--force-conflicts", "--field-manager=make-secrets")
        kubectl.call("apply", "--filename=-", *who, given=json.dumps(secret))
        print(f"Secret {name}-tls written in the namespace {kubectl.own_namespace()}; pods have it within a minute and a half")
