"""`make certs`: what it writes can be used at once, and again when it is renewed."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from tests.bake import SLUG

from .rendered import PREFIX, VENV, project


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command that make calls, in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(project())}
    command = [str(VENV / "bin" / "python"), "-B", "-m", "deploy.certificates", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def test_what_it_prints_for_a_dotenv_file_is_read_by_the_program(tmp_path: Path) -> None:
    """Settings and files; and nobody else may read a key."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(PREFIX)]
    (tmp_path / ".env").write_text("\n".join(lines))
    for path in (tmp_path / "certs").rglob("tls.key"):
        assert path.stat().st_mode & 0o077 == 0
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {
        "PYTHONPATH": str(project() / "src")
    }
    command = [str(VENV / "bin" / "python"), "-m", f"{SLUG}.server", "--print-settings"]
    shown = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert len(lines) == 4
    assert set(lines) <= set(shown.stdout.splitlines())


@pytest.mark.parametrize(
    ("side", "dns"), [("server", f"{SLUG}-server-headless.team-2.svc.cluster.local"), ("client", f"{SLUG}-client")]
)
def test_a_certificate_has_the_names_by_which_it_is_called_and_its_spiffe_id(tmp_path: Path, side: str, dns: str) -> None:
    """Both in the given namespace, and in a chain that a strict verifier accepts."""
    assert run(tmp_path, "--namespace", "team-2").returncode == 0
    folder = tmp_path / "certs" / side
    [certificate] = certificates(folder / "tls.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {dns, f"{SLUG}-{side}.team-2"} <= set(names.get_values_for_type(x509.DNSName))
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://cluster.local/ns/team-2/sa/{SLUG}-{side}"]
    verifier = PolicyBuilder().store(Store(certificates(folder / "ca.crt"))).build_server_verifier(x509.DNSName(dns))
    assert len(verifier.verify(certificate, [])) == 2


def test_again_renews_and_a_new_ca_is_trusted_beside_the_old_one(tmp_path: Path) -> None:
    """So nothing that runs is cut off."""
    kept = [tmp_path / "certs" / name for name in ("server/tls.crt", "ca/tls.crt", "client/ca.crt")]
    seen = []
    for arguments in ((), (), ("--new-ca",)):
        assert run(tmp_path, *arguments).returncode == 0
        seen.append([path.read_bytes() for path in kept])
    assert len({leaf for leaf, _, _ in seen}) == 3
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert [trusted.count(b"BEGIN CERTIFICATE") for _, _, trusted in seen] == [1, 1, 2]
    assert seen[2][1] in seen[2][2]
    assert seen[1][1] in seen[2][2]


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, name: str) -> None:
    """No traceback."""
    assert run(tmp_path).returncode == 0
    (tmp_path / "certs" / "ca" / name).write_text("garbage")
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("certs: certs cannot be used: ")
    assert "Traceback" not in done.stderr
