"""`make certs`: what it writes can be used at once, and again when it is renewed."""

import contextlib
import os
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.bake import SLUG

from .rendered import PREFIX, VENV, project


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command that make calls, with make's variables, in a folder of its own."""
    environment = {**os.environ, "NAMESPACE": "", "PYTHONPATH": str(project() / "src"), **variables}
    command = [str(VENV / "bin" / "python"), "-B", "-m", f"{SLUG}.discovery.testing.certificates", SLUG, PREFIX]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def test_what_it_prints_for_a_dotenv_file_is_read_by_the_program(tmp_path: Path) -> None:
    """Four settings, whose files exist."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(PREFIX)]
    (tmp_path / ".env").write_text("\n".join(lines))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {
        "PYTHONPATH": str(project() / "src")
    }
    command = [str(VENV / "bin" / "python"), "-m", f"{SLUG}.server", "--print-settings"]
    shown = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert len(lines) == 4
    assert set(lines) <= set(shown.stdout.splitlines())


def test_only_their_owner_can_read_the_files_and_a_secret_can_be_made_of_each_folder(tmp_path: Path) -> None:
    """By `kubectl create secret generic --from-file=FOLDER`, which takes every file; whatever the umask is."""
    umask = os.umask(0)
    try:
        assert run(tmp_path).returncode == 0
    finally:
        os.umask(umask)
    made = {
        path.relative_to(tmp_path / "certs").as_posix(): path.stat().st_mode & 0o777 for path in (tmp_path / "certs").rglob("*")
    }
    pair = {"tls.crt": 0o600, "tls.key": 0o600}
    sides = {"ca": pair, "server": pair | {"ca.crt": 0o600}, "client": pair | {"ca.crt": 0o600}}
    assert made == {side: 0o700 for side in sides} | {
        f"{side}/{name}": mode for side in sides for name, mode in sides[side].items()
    }
    assert (tmp_path / "certs").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("side", "dns"), [("server", f"{SLUG}-server-headless.team-2.svc.cluster.local"), ("client", f"{SLUG}-client")]
)
def test_a_certificate_has_the_names_by_which_it_is_called_for_a_week(tmp_path: Path, side: str, dns: str) -> None:
    """In the given namespace; only the server has the loopback's names."""
    assert run(tmp_path, NAMESPACE="team-2").returncode == 0
    folder = tmp_path / "certs" / side
    [certificate] = certificates(folder / "tls.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = set(names.get_values_for_type(x509.DNSName))
    assert {dns, f"{SLUG}-{side}.team-2", f"{SLUG}-{side}.team-2.svc"} <= found
    assert ("localhost" in found) == (side == "server")
    assert len(names.get_values_for_type(x509.IPAddress)) == (2 if side == "server" else 0)
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6) < left <= timedelta(days=7)


def handshake(certs: Path, name: str) -> None:
    """Of a client that calls the server by this name, both strict."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs / "server" / "ca.crt")
    client = ssl.create_default_context(cafile=certs / "client" / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    for side, context in (("server", server), ("client", client)):
        context.load_cert_chain(certs / side / "tls.crt", certs / side / "tls.key")
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)
    for end in ends * 2:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert all(end.version() for end in ends)
    assert ends[1].getpeercert()


def test_each_side_accepts_the_other_under_each_name_of_the_server(tmp_path: Path) -> None:
    """And no other server's."""
    assert run(tmp_path, NAMESPACE="team-2").returncode == 0
    for name in (f"{SLUG}-server", f"{SLUG}-server-headless.team-2.svc.cluster.local", "localhost", "::1"):
        handshake(tmp_path / "certs", name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path / "certs", f"{SLUG}-server.team-1")


def test_again_renews_and_a_new_ca_is_trusted_beside_the_old_one(tmp_path: Path) -> None:
    """So nothing that runs is cut off."""
    kept = [tmp_path / "certs" / name for name in ("server/tls.crt", "ca/tls.crt", "client/ca.crt")]
    seen = []
    for variables in ({}, {}, {"NEW_CA": "1"}):
        assert run(tmp_path, **variables).returncode == 0
        seen.append([path.read_bytes() for path in kept])
    assert len({leaf for leaf, _, _ in seen}) == 3
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert [trusted.count(b"BEGIN CERTIFICATE") for _, _, trusted in seen] == [1, 1, 2]
    assert seen[2][1] in seen[2][2]
    assert seen[1][1] in seen[2][2]


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, name: str) -> None:
    """No traceback, whether a file of the CA is broken or gone."""
    assert run(tmp_path).returncode == 0
    path = tmp_path / "certs" / "ca" / name
    path.write_text("garbage")
    refused(run(tmp_path), "delete certs/ to begin anew")
    (path.parent / "tls.crt").unlink()
    refused(run(tmp_path), "certs/ca/tls.crt")


def test_a_namespace_that_is_no_name_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Not even a new CA, whose certificates would be missing."""
    assert run(tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "certs").rglob("*.*")}
    refused(run(tmp_path, NAMESPACE="team 2", NEW_CA="1"), "correct NAMESPACE")
    assert {path: path.read_bytes() for path in (tmp_path / "certs").rglob("*.*")} == before


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    """In one line that has these words."""
    assert done.returncode == 1
    assert done.stderr.startswith("certs: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
