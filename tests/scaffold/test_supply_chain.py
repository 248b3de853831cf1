"""What is known of the dependencies, and what breaks callers."""

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import run_make

from .repositories import commit_all, git


@pytest.fixture
def project(linted: Path) -> Path:
    """A default project."""
    return linted


def test_the_bill_of_materials_is_valid_and_holds_all_that_is_locked(project: Path) -> None:
    """CycloneDX's own schema is asked by `--validate`; the same project has the same bill, byte for byte."""
    bills = []
    for _ in range(2):
        done = run_make(project, "sbom")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        bills.append((project / "sbom.json").read_text())
    assert bills[0] == bills[1]
    bill = json.loads(bills[0])
    lock = next(path for name in ("image.lock", "dev.lock") if (path := project / "requirements" / name).exists())
    pinned = set(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))
    assert {(each["name"], each["version"]) for each in bill["components"]} == pinned
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
    assert bill["metadata"]["component"]["name"] == project.name


class Service(http.server.BaseHTTPRequestHandler):
    """OSV's query, as far as pip-audit asks it: one package may be vulnerable."""

    vulnerable = ""

    def do_POST(self) -> None:
        """https://google.github.io/osv.dev/post-v1-query"""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = []
        if asked["package"]["name"] == self.vulnerable:
            affected = {"package": asked["package"], "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}
            found = [{"id": "PYSEC-2099-1", "summary": "bad", "details": "bad", "affected": [affected]}]
        content = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[str]:
    """Its address; the real one is asked by CI."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.mark.parametrize(("vulnerable", "status"), [("", 0), ("protobuf", 2)])
def test_an_audit_fails_where_something_vulnerable_is_locked(
    project: Path, service: str, monkeypatch: pytest.MonkeyPatch, vulnerable: str, status: int
) -> None:
    """And says what; make's own status for a failure is 2."""
    monkeypatch.setattr(Service, "vulnerable", vulnerable)
    done = run_make(project, "audit", OSV_URL=service)
    assert done.returncode == status, done.stderr
    assert ("PYSEC-2099-1" in done.stdout) is bool(vulnerable)
    for lock in (project / "requirements").glob("*.lock"):
        assert f"requirements/{lock.name}: " in done.stderr


def test_an_audit_that_could_not_ask_has_failed_and_says_so(project: Path) -> None:
    """Without an answer nothing is known, and that must not look like nothing being wrong."""
    done = run_make(project, "audit", OSV_URL="http://127.0.0.1:1/v1/query")
    assert done.returncode == 2
    assert "audit: http://127.0.0.1:1/v1/query cannot be asked, so nothing is known about requirements/" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["", "services/greeter"], ids=["own repository", "in a folder of another one"])
def test_a_contract_that_breaks_callers_is_refused_against_the_merge_base(linted: Path, tmp_path: Path, place: str) -> None:
    """Offline, from the clone alone; what is only added is no break."""
    repository = tmp_path / "repository"
    clone = repository / place
    shutil.copytree(linted, clone)
    commit_all(repository)
    git(repository, "checkout", "-qb", "change")
    contract = clone / "proto/greeter/v1/greeter.proto"
    before = contract.read_text()
    assert "string name = 1;" in before
    contract.write_text(before.replace("string name = 1;", "string name = 1;\n  string title = 9;", 1))
    done = run_make(clone, "breaking")
    assert done.returncode == 0, done.stdout + done.stderr
    contract.write_text(before.replace("string name = 1;", "string name = 9;", 1))
    done = run_make(clone, "breaking")
    assert done.returncode != 0
    assert 'field "1"' in done.stdout
