"""`make deploy` in generated projects, on a real cluster: what it refuses, in a sentence, and what the image and a dry run are."""

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import IMAGE, TOOL, Everywhere
from .deployed import Deployed, kubectl

pytestmark = pytest.mark.cluster

SENTENCE = 60.0
"""Seconds within which a mistake must have been reported."""


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that make deploy has ended with."""
    assert done.returncode != 0, done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(said) == 1, done.stderr
    return said[0]


def test_a_mistyped_mode_is_reported_with_those_that_exist(project: Path) -> None:
    """Before anything else is done."""
    done = Deployed(project, "", IMAGE).ask("deploy", seconds=SENTENCE, DISCOVERY="kubernets")
    assert "DISCOVERY=kubernets is not in this project; choose one of dns, etcd" in refused(done)


def test_a_missing_cluster_is_reported(project: Path, tmp_path: Path) -> None:
    """One that nothing names, and one whose address nobody answers."""
    there = Deployed(project, "", IMAGE)
    assert "no cluster answers" in refused(there.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(tmp_path / "none")))
    silent = tmp_path / "config"
    kubectl("config", "--kubeconfig", str(silent), "set-cluster", "c", "--server=https://127.0.0.1:1")
    kubectl("config", "--kubeconfig", str(silent), "set-credentials", "u", "--token=t")
    kubectl("config", "--kubeconfig", str(silent), "set-context", "c", "--cluster=c", "--user=u")
    kubectl("config", "--kubeconfig", str(silent), "use-context", "c")
    said = refused(there.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(silent)))
    assert "no cluster answers" in said
    assert "set KUBECONFIG" in said


def test_a_missing_right_is_reported(everywhere: Everywhere, tmp_path: Path) -> None:
    """As an account that may do nothing."""
    main = everywhere.main
    token = main.kubectl("create", "token", f"{main.project.name}-server").strip()
    config = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "config").write_text(json.dumps(config))
    said = refused(main.ask("deploy", seconds=SENTENCE, KUBECONFIG=str(tmp_path / "config")))
    assert "you have no right to that" in said
    assert f"system:serviceaccount:{main.namespace}:{main.project.name}-server" in said


def test_an_image_that_cannot_be_pulled_is_reported_and_the_old_pods_stay(everywhere: Everywhere) -> None:
    """By its name; the next good deployment mends it."""
    there = everywhere.elsewhere
    before = {pod["metadata"]["name"] for pod in there.pods("server")}
    said = refused(there.ask("deploy", seconds=SENTENCE, DISCOVERY="dns", IMAGE="localhost/nowhere:1"))
    assert "the image localhost/nowhere:1 cannot be pulled" in said
    assert before <= {pod["metadata"]["name"] for pod in there.pods("server")}
    there.make("deploy", DISCOVERY="dns")
    assert {pod["metadata"]["name"] for pod in there.pods("server")} == before


def test_an_image_that_can_go_nowhere_is_reported_before_it_is_built(project: Path) -> None:
    """localhost is no registry."""
    said = refused(Deployed(project, "", IMAGE).ask("deploy", seconds=SENTENCE, BUILD="yes", LOAD_IMAGE=""))
    assert "names no registry to push to; set IMAGE" in said


def test_the_image_holds_no_tool_and_its_user_has_a_number(everywhere: Everywhere) -> None:
    """No pip, no compiler, no test; a root that cannot be written to. It runs, though only the checkout's owner can read its files."""
    assert not any(path.stat().st_mode & 0o077 for path in everywhere.main.project.rglob("*.py"))
    main = everywhere.main
    program = "import importlib.util, os, shutil; print(importlib.util.find_spec('pip'), *map(shutil.which, ('pip', 'pip3', 'gcc', 'cc')), os.getuid(), os.access('/app', os.W_OK))"
    assert main.kubectl("exec", str(main.pods("server")[0]["metadata"]["name"]), "--", "python", "-c", program).split() == [
        "None"
    ] * 5 + ["65532", "False"]
    if TOOL == "buildah":
        config = json.loads(subprocess.run([TOOL, "inspect", "--type", "image", IMAGE], capture_output=True, check=True).stdout)[
            "OCIv1"
        ]["config"]
        assert (config["User"], config["StopSignal"], config["Entrypoint"]) == ("65532:65532", "SIGTERM", ["python"])
        assert config["Labels"]["org.opencontainers.image.title"] == main.project.name


def test_a_dry_run_changes_nothing_and_a_diff_shows_the_difference(everywhere: Everywhere) -> None:
    """Asked of the API server, which accepts it."""
    main = everywhere.main
    before = main.kubectl(
        "get", "deployments,configmaps", "-l", main.selector, "-o", "jsonpath={.items[*].metadata.resourceVersion}"
    )
    said = main.make("deploy", DISCOVERY="dns", DRY_RUN="1")
    assert "GREETER__CLIENT__TARGET: dns-poll:///" in said
    assert "the API server has accepted all of it" in said
    assert "no difference" in main.make("diff", DISCOVERY="kubernetes")
    assert "dns-poll:///" in main.make("diff", DISCOVERY="dns")
    for target, arguments in (("scale", ("N=9",)), ("restart", ()), ("kill", ()), ("undeploy", ())):
        assert "would" in main.make(target, *arguments, DRY_RUN="1")
    after = main.kubectl(
        "get", "deployments,configmaps", "-l", main.selector, "-o", "jsonpath={.items[*].metadata.resourceVersion}"
    )
    assert after == before
