"""The Secrets that some overlays need: certificates of both sides, and an etcd with TLS and a user."""

import json
import subprocess
import time
from pathlib import Path

import trustme

from tests.bake import ROOT

from .deployed import ETCD_IMAGE, Deployed


def renew(deployed: Deployed, **variables: str) -> None:
    """Certificates of both sides by `make certs`, and the Secrets that hold them, as the docs say. variables: NEW_CA=1."""
    deployed.make("certs", VENV=str(ROOT / "build" / "venv"), **variables)
    for side in ("server", "client"):
        name, files = f"{deployed.project.name}-{side}-tls", f"--from-file={deployed.project / 'certs' / side}"
        new = ("create", "secret", "generic", name, "--type=kubernetes.io/tls", files, "--dry-run=client", "-o=json")
        deployed.kubectl("apply", "--server-side", "-f", "-", given=json.loads(deployed.kubectl(*new)))
    # A change to the pod makes the kubelet look at once; by itself it would within a minute.
    deployed.kubectl("annotate", "pods", "--all", "--overwrite", f"renewed={time.time()}")


def an_etcd_of_your_own(deployed: Deployed, folder: Path) -> None:
    """Beside the project: TLS, and a user who may touch the keys of this deployment only; and the Secret from which the pods know it."""
    ca = trustme.CA()
    certificate = ca.issue_cert("own-etcd")
    ca.cert_pem.write_to_path(folder / "ca.crt")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    deployed.kubectl("create", "secret", "tls", "own-etcd", f"--cert={folder / 'tls.crt'}", f"--key={folder / 'tls.key'}")
    data = ("--from-literal=username=pair", "--from-literal=password=secret", f"--from-file={folder / 'ca.crt'}")
    deployed.kubectl("create", "secret", "generic", f"{deployed.project.name}-etcd", *data)
    variables = {
        "ETCD_DATA_DIR": "/data", "ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:2379", "ETCD_ADVERTISE_CLIENT_URLS": "https://own-etcd:2379",
        "ETCD_CERT_FILE": "/tls/tls.crt", "ETCD_KEY_FILE": "/tls/tls.key",
    }  # fmt: skip
    container = {
        "name": "etcd", "image": ETCD_IMAGE, "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/tls"}],
        "readinessProbe": {"tcpSocket": {"port": 2379}, "periodSeconds": 1},
    }  # fmt: skip
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tls", "secret": {"secretName": "own-etcd"}}]
    metadata = {"name": "own-etcd", "labels": {"app": "own-etcd"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], "volumes": volumes}}
    deployed.kubectl("create", "-f", "-", given=pod)
    deployed.kubectl("expose", "pod", "own-etcd", "--port=2379")
    deployed.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/own-etcd")
    address = deployed.kubectl("get", "pod", "own-etcd", "-o", "jsonpath={.status.podIP}")
    for command in (
        "user add root:secret", "role add root", "user grant-role root root", "user add pair:secret", "role add pair", "user grant-role pair pair",
        f"role grant-permission pair readwrite --prefix=true {deployed.namespace}/{deployed.project.name}-server/", "auth enable",
    ):  # fmt: skip
        line = ["etcdctl", f"--endpoints=https://{address}:2379", "--insecure-skip-tls-verify", *command.split()]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"etcdctl {command}: {done.stderr}"
