"""One project and one image for all tests of this folder, and the three deployments that they share."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bake import ROOT, SLUG, bake

from .deployed import Deployed, kubectl, variables

RUN = uuid.uuid4().hex[:6]
IMAGE = f"localhost/deploy-test:{RUN}"
TOOL = os.environ.get("CONTAINER_TOOL", "buildah")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default project below a folder called tests, with files that only their owner can read, and its image, built and loaded once."""
    folder = tmp_path_factory.mktemp("main") / "tests"
    folder.mkdir()
    made = bake(folder)
    there = Deployed(made, "", IMAGE)
    there.quicken()
    there.make("stubs", VENV=str(ROOT / "build" / "venv"))
    for path in made.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    for target in ("image", "load"):
        there.make(target)
    yield made
    subprocess.run([TOOL, "rmi", IMAGE], capture_output=True)


@dataclass(frozen=True)
class Everywhere:
    """main: kubernetes at first, 200 calls a second, no retry.  neighbor: native-dns.  elsewhere: dns; both with retries."""

    main: Deployed
    neighbor: Deployed
    elsewhere: Deployed


@pytest.fixture(scope="session")
def everywhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    """One project in a namespace, where it goes through modes; another project in the same namespace; and the first project once
    more in a namespace elsewhere. The first namespace admits restricted pods only."""
    here, there = f"deploy-{RUN}", f"deploy-{RUN}-elsewhere"  # the second is made by make deploy
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl("create", "-f", "-", given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": here, "labels": labels}})
    # The same package name, so that both projects can share an image.
    other = bake(tmp_path_factory.mktemp("other"), project_name="Other", package_name=SLUG, discovery="dns")
    copy = bake(tmp_path_factory.mktemp("copy"))
    made = Everywhere(Deployed(project, here, IMAGE), Deployed(other, here, IMAGE), Deployed(copy, there, IMAGE))
    made.main.setting("client", **variables(CLIENT__RATE="200", CLIENT__RETRY__ATTEMPTS="1"))
    for deployed in (made.neighbor, made.elsewhere):
        deployed.quicken()
        deployed.setting("client", **variables(CLIENT__RATE="50"))
    try:
        with ThreadPoolExecutor() as pool:
            ways = ((made.main, "kubernetes"), (made.neighbor, "native-dns"), (made.elsewhere, "dns"))
            list(pool.map(lambda way: way[0].make("deploy", DISCOVERY=way[1]), ways))
        yield made
    finally:
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", here, there)
