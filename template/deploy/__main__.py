"""`python -m deploy COMMAND`: what make's targets of image and deployment do. Variables choose: see site.py, or `make help`.

It needs Python's standard library and kubectl, nothing else; only `certificates` needs the project's environment.
"""

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Callable

from . import image, logs
from .kubectl import Kubectl, RefusedError, need, ready
from .rollout import Rollout, labelled, undeploy, wait
from .site import CLIENT, FOLDER, NAME, PART_OF, SERVER, SLUG, Site, variables

_KIND = {
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "kind": "Cluster",
    "nodes": [
        {"role": "control-plane"},
        *({"role": "worker", "labels": {"topology.kubernetes.io/zone": zone}} for zone in ("a", "a", "b")),
    ],
}
"""`make cluster`: a control plane, and three workers in two zones."""

_SERVERS = f"--selector={PART_OF},{NAME}={SERVER}"
_SIGKILL = """
import os, pathlib, signal
for place in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b".server\\0" in place.read_bytes():
        os.kill(int(place.parent.name), signal.SIGKILL)
"""
"""In a pod: the server's process, which is not number 1 there."""


class Commands:
    """Each public method is one."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.kubectl = Kubectl(site.namespace)

    def image(self) -> None:
        """build the image"""
        image.build(self.site)

    def push(self) -> None:
        """push it to its registry"""
        image.push(self.site)

    def load(self) -> None:
        """load it into a cluster on this machine"""
        image.load(self.kubectl, self.site)

    def cluster(self) -> None:
        """start a cluster on this machine"""
        need(
            "kind", "it makes clusters of containers: https://kind.sigs.k8s.io; any other cluster will do as well, see KUBECONFIG"
        )
        command = ("kind", "create", "cluster", f"--name={SLUG}", "--config=-")
        if self.site.dry_run:
            print("would run: " + " ".join(command))
        elif subprocess.run(command, input=json.dumps(_KIND), text=True).returncode:
            raise RefusedError(f"'{' '.join(command)}' has failed; its reason stands above")

    def secrets(self) -> None:
        """what make certs has written, as the Secrets of components/mtls, in cert-manager's layout"""
        self.kubectl.check_cluster()
        self._namespace()
        files = ("tls.crt", "tls.key", "ca.crt")
        # Server-side, or kubectl would keep a copy of the key in an annotation.
        who = ("--server-side", "--force-conflicts", "--field-manager=make-secrets")
        for side in (SERVER, CLIENT):
            name, folder = f"{side}-tls", FOLDER.parent / "certs" / side.rpartition("-")[2]
            try:
                data = {file: base64.b64encode((folder / file).read_bytes()).decode() for file in files}
            except OSError as error:
                raise RefusedError(f"{error.filename} cannot be read: {error.strerror}; make certs writes it") from None
            if self.site.dry_run:
                print(f"would write the Secret {name} from {folder}")
                continue
            secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}, "data": data}
            self.kubectl.call("apply", "--filename=-", *who, given=json.dumps(secret))
            print(f"Secret {name} written in the namespace {self.kubectl.own_namespace()}; pods have it within two minutes")

    def deploy(self) -> None:
        """build, deliver, apply, wait, delete what is no longer wanted"""
        site, name = self.site, image.name(self.site)
        self.kubectl.check_cluster()
        if site.build:
            image.can_be_delivered(self.kubectl, site)
        there = self._namespace()
        rollout = Rollout(self.kubectl, site, name)
        if there:
            rollout.look()
            rollout.check()
        if site.build:
            image.build(site)
            image.deliver(self.kubectl, site)
        if site.dry_run:
            print(rollout.render())
            print(
                "would be applied: the API server has accepted all of it"
                if there
                else "would be applied, in a namespace made for it"
            )
            return
        print(f"deploying {name} in mode {site.discovery} to the namespace {self.kubectl.own_namespace()}", flush=True)
        rollout.run()
        print(f"{SLUG} runs; make logs shows who serves, make status its pods")

    def _namespace(self) -> bool:
        """Make it where it does not exist; whether it does."""
        name = self.kubectl.own_namespace()
        try:
            if self.kubectl.get("namespace", name):
                return True
        except RefusedError:
            return True  # not allowed to ask; the next command will tell
        if not self.site.dry_run:
            self.kubectl.call("create", "namespace", name)
            print(f"namespace {name} made; undeploy leaves it")
        return not self.site.dry_run

    def undeploy(self) -> None:
        """delete all of the project"""
        self.kubectl.check_cluster()
        if self.site.dry_run:
            print("\n".join(f"would delete {name}" for name in labelled(self.kubectl)) or "nothing is there")
        else:
            undeploy(self.kubectl, self.site.timeout)

    def status(self) -> None:
        """what is there"""
        self.kubectl.check_cluster()
        kinds = "deployments,statefulsets,horizontalpodautoscalers,poddisruptionbudgets,services,endpointslices,pods"
        shown = self.kubectl.call("get", kinds, f"--selector={PART_OF}", "--output=wide")
        print(
            shown or f"nothing of {SLUG} is in the namespace {self.kubectl.own_namespace()}; make deploy",
            end="\n" if not shown else "",
        )

    def logs(self) -> None:
        """follow all pods"""
        self.kubectl.check_cluster()
        logs.follow(self.kubectl)

    def scale(self, count: str) -> None:
        """change the number of servers"""
        if not count.isdigit():
            raise RefusedError(f"N={count} is not a number of servers; write for example make scale N=5")
        self._change("scale", f"deployment/{SERVER}", f"--replicas={count}")

    def restart(self) -> None:
        """replace all pods, one after the other"""
        found = self.kubectl.get("deployments", f"--selector={PART_OF}").get("items", [])
        for name in sorted((item["metadata"]["name"] for item in found), reverse=True):  # servers before clients
            self._change("rollout", "restart", f"deployment/{name}")

    def _change(self, *arguments: str) -> None:
        """Something that kubectl does to a Deployment, and its end."""
        self.kubectl.check_cluster()
        if self.site.dry_run:
            print("would run: kubectl " + " ".join(arguments))
            return
        print(self.kubectl.call(*arguments), end="", flush=True)
        wait(self.kubectl, "deployment", arguments[-2 if "--" in arguments[-1] else -1].partition("/")[2], self.site.timeout)

    def kill(self, pod: str = "") -> None:
        """SIGKILL to one server, the oldest unless a pod is named"""
        self.kubectl.check_cluster()
        pods = ready(self.kubectl, _SERVERS)
        if pod and pod not in pods:
            raise RefusedError(f"POD={pod} is not a ready server of {SLUG}; there are: {', '.join(pods) or 'none'}")
        if not pods:
            raise RefusedError(f"no server of {SLUG} is ready in {self.kubectl.own_namespace()}; make status shows why")
        chosen = pod or pods[0]
        if self.site.dry_run:
            print(f"would send SIGKILL to the server in pod {chosen}")
            return
        self.kubectl.call("exec", chosen, "--", "python", "-c", _SIGKILL)
        print(f"SIGKILL sent to the server in pod {chosen}; its container starts again")

    def manifests(self) -> None:
        """print what would be applied"""
        print(Rollout(self.kubectl, self.site, image.name(self.site)).render(), end="")

    def diff(self) -> None:
        """compare it with what is there"""
        self.kubectl.check_cluster()
        rollout = Rollout(self.kubectl, self.site, image.name(self.site))
        rollout.look()
        arguments = ("diff", "--server-side", "--force-conflicts", "--field-manager=make-deploy", "--filename=-")
        done = subprocess.run(self.kubectl.command(*arguments), input=rollout.render(), text=True)
        if done.returncode > 1:
            raise RefusedError("kubectl diff has failed; its reason stands above")
        if done.returncode == 0:
            print("no difference")


def main() -> int:
    """Status 0, or 1 with a sentence."""
    known = [name for name in vars(Commands) if not name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    parser.add_argument("command", choices=known)
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    try:
        command: Callable[..., None] = getattr(Commands(Site.of(variables())), given.command)
        command(*given.arguments)
    except RefusedError as refused:
        print(f"make {given.command}: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
