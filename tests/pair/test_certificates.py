"""`make certs`: what it writes can be used at once, and again when it is renewed."""

import subprocess
import sys
from pathlib import Path

import pytest
from development.certificates import renew

from .processes import servers


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in an empty folder."""
    project = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "development.certificates", *arguments],
        cwd=folder, env={"PYTHONPATH": f"{project / 'src'}:{project}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_what_it_prints_into_a_dotenv_file_starts_the_pair(tmp_path: Path) -> None:
    """Settings, files, and nobody else may read a key."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("TLS__"))
    assert settings["TLS__MODE"] == "mtls"
    for path in (tmp_path / "certs").rglob("tls.key"):
        assert path.stat().st_mode & 0o077 == 0
    absolute = {name: f"{tmp_path}/{value}" if "/" in value else value for name, value in settings.items()}
    with servers("a", **absolute) as running:
        running["a"][0].wait_for("serving as a")


def test_again_renews_and_a_new_authority_is_believed_beside_the_old_one(tmp_path: Path) -> None:
    """So nothing that runs is cut off."""
    kept = tmp_path / "server" / "tls.crt", tmp_path / "ca" / "tls.crt", tmp_path / "client" / "ca.crt"
    seen = []
    for new_authority in (False, False, True):
        renew(tmp_path, "default", new_authority=new_authority)
        seen.append([path.read_bytes() for path in kept])
    assert len({leaf for leaf, _, _ in seen}) == 3
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert [believed.count(b"BEGIN CERTIFICATE") for _, _, believed in seen] == [1, 1, 2]
    assert seen[2][1] in seen[2][2]
    assert seen[1][1] in seen[2][2]


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, name: str) -> None:
    """No traceback."""
    renew(tmp_path / "certs", "default")
    (tmp_path / "certs" / "ca" / name).write_text("garbage")
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("certs: certs cannot be used: ")
    assert "Traceback" not in done.stderr
