"""Files that are followed: what counts as whole, what is refused, and who is told."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import CertificateError, CertificateFiles

from .servers import DEADLINE, until
from .tls_servers import Folder, trustme


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "tls", "a", trustme.CA())


def spoilt(folder: Folder, how: str) -> None:
    """Break one file."""
    other = trustme.CA().issue_cert("b")
    match how:
        case "certificate is garbage":
            folder.write("tls.crt", b"garbage")
        case "certificate is gone":
            (folder.path / "tls.crt").unlink()
        case "key is another's":
            folder.write("tls.key", other.private_key_pem.bytes())
        case "key is garbage":
            folder.write("tls.key", b"garbage")
        case "key is empty":
            folder.write("tls.key", b"")
        case "ca is garbage":
            folder.write("ca.crt", b"garbage")
        case "certificate is cut short":
            folder.write("tls.crt", (folder.path / "tls.crt").read_bytes()[:-100])


SPOILT = {
    "certificate is garbage": r"CertificateFiles\(certificate='.*/tls.crt'\) holds no certificate in PEM",
    "certificate is gone": r"CertificateFiles\(certificate='.*/tls.crt'\) cannot be read: No such file or directory",
    "certificate is cut short": r"CertificateFiles\(certificate='.*/tls.crt'\) holds no certificate in PEM",
    "key is another's": r"CertificateFiles\(key='.*/tls.key'\) does not fit the certificate '.*/tls.crt'",
    "key is garbage": r"CertificateFiles\(key='.*/tls.key'\) holds no private key in PEM, or one behind a password",
    "key is empty": r"CertificateFiles\(key='.*/tls.key'\) holds no private key in PEM, or one behind a password",
    "ca is garbage": r"CertificateFiles\(ca='.*/ca.crt'\) holds no certificate in PEM",
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_used_is_refused_at_first_and_passed_over_later(
    folder: Folder, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The same sentence both times; later it is a warning, once, and the last good set stays."""
    files = folder.files()
    before = files.pem
    spoilt(folder, how)
    with pytest.raises(CertificateError, match=SPOILT[how]):
        folder.files()
    with caplog.at_level(logging.WARNING):
        assert not files.check()
        assert not files.check()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert files.pem is before
    folder.issue(trustme.CA())
    assert files.check()
    assert files.pem != before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"certificate": "x"}, r"CertificateFiles\(certificate='x'\) needs its key beside it"),
        ({"key": "x"}, r"CertificateFiles\(key='x'\) needs its certificate beside it"),
        ({"refresh": 0.0}, r"CertificateFiles\(refresh='0.0'\) must be between 0.01 and 86400 seconds"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], reason: str) -> None:
    """One file of the pair says nothing."""
    with pytest.raises(CertificateError, match=reason):
        CertificateFiles(**arguments)


def test_subscribers_are_told_on_one_thread_which_ends_with_the_last(folder: Folder) -> None:
    """Nothing is looked at for nobody."""
    files, told = folder.files(0.01), [threading.Event(), threading.Event()]
    ends = [files.subscribe(lambda credentials, each=each: each.set()) for each in told]  # type: ignore[misc]
    folder.issue(trustme.CA())
    assert all(each.wait(DEADLINE) for each in told)
    assert sum(thread.name == "discovery certificates" for thread in threading.enumerate()) == 1
    for end in ends:
        end()
        end()
    until(lambda: all(thread.name != "discovery certificates" for thread in threading.enumerate()))


def test_a_subscriber_that_raises_is_called_again_and_keeps_no_other_from_hearing(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it succeeds; one line for each set, and files are followed on."""
    files, told, later = folder.files(0.01), threading.Event(), threading.Event()
    heard: list[grpc.ChannelCredentials] = []

    def fail_twice(credentials: grpc.ChannelCredentials) -> None:
        heard.append(credentials)
        if len(heard) < 3:
            raise OSError("no")

    ends = [files.subscribe(fail_twice), files.subscribe(lambda credentials: told.set())]
    folder.issue(trustme.CA())
    assert told.wait(DEADLINE)
    until(lambda: len(heard) == 3)
    assert heard == [files.credentials] * 3
    assert len([record for record in caplog.records if record.exc_info]) == 1
    ends.append(files.subscribe(lambda credentials: later.set()))
    folder.issue(trustme.CA())
    assert later.wait(DEADLINE)
    for end in ends:
        end()


def test_a_log_handler_that_raises_does_not_end_the_following(folder: Folder) -> None:
    """Neither by a new set nor by files that cannot be used."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    files, told = folder.files(0.01), threading.Event()
    handler = Broken()
    logging.getLogger("discovery").addHandler(handler)
    try:
        end = files.subscribe(lambda credentials: told.set())
        folder.write("tls.key", b"garbage")
        until(lambda: files._problem != "")
        folder.issue(trustme.CA())
        assert told.wait(DEADLINE)
        end()
    finally:
        logging.getLogger("discovery").removeHandler(handler)


def test_a_thread_that_cannot_be_started_leaves_no_subscriber(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's; the next one is followed."""

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    files, told = folder.files(0.01), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(RuntimeError):
            files.subscribe(lambda credentials: None)
    assert not files._subscribers
    end = files.subscribe(lambda credentials: told.set())
    folder.issue(trustme.CA())
    assert told.wait(DEADLINE)
    end()


def test_reading_and_unsubscribing_need_no_lock(folder: Folder) -> None:
    """A finalizer may run in the middle of anything, on the thread that holds the lock."""
    files = folder.files(0.01)
    end = files.subscribe(lambda credentials: None)
    other = threading.Thread(target=lambda: (end(), files.pem, files.credentials), daemon=True)
    with files._lock:
        other.start()
        other.join(DEADLINE)
    assert not other.is_alive()
    until(lambda: all(thread.name != "discovery certificates" for thread in threading.enumerate()))


def test_files_that_were_replaced_while_nobody_followed_are_noticed_at_once(folder: Folder) -> None:
    """A channel that is opened long after the files were first read does not begin with a certificate of that time."""
    files, told = folder.files(refresh=3600), threading.Event()
    folder.issue(trustme.CA())
    end = files.subscribe(lambda credentials: told.set())
    assert told.wait(DEADLINE)
    end()


def test_a_forked_child_follows_the_files_itself(folder: Folder, tmp_path: Path) -> None:
    """For subscribers of the program; those of channels belong to the parent. A lock held elsewhere at the fork does not matter."""
    folder.issue(trustme.CA())
    files = [f"{folder.path}/{name}" for name in ("ca.crt", "tls.crt", "tls.key")]
    replacement = Folder(tmp_path / "next", "a", trustme.CA())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", _FORK, *files, str(replacement.path)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.split() == ["inherited", "own"], done.stderr


_FORK = """
import os, shutil, sys, threading
from discovery import CertificateFiles

ca, certificate, key, replacement = sys.argv[1:]
files = CertificateFiles(ca=ca, certificate=certificate, key=key, refresh=0.01)
heard = {name: threading.Event() for name in ("inherited", "channel", "own")}
files.subscribe(lambda credentials: heard["inherited"].set())
files.subscribe(lambda credentials: heard["channel"].set(), inherited=False)
held = threading.Event()
threading.Thread(target=lambda: files._lock.acquire() and (held.set(), threading.Event().wait()), daemon=True).start()
held.wait()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
before = files.pem
files.subscribe(lambda credentials: heard["own"].set())
for path in (ca, key, certificate):
    shutil.copy(os.path.join(replacement, os.path.basename(path)), path + ".next")
    os.replace(path + ".next", path)
for name in ("inherited", "own"):
    assert heard[name].wait(20), name
    print(name, flush=True)
assert files.pem != before
assert not heard["channel"].is_set()
os._exit(0)
"""


def test_files_of_two_moments_are_never_taken_for_one_set(folder: Folder) -> None:
    """While certificate and key are replaced one after the other, as often as can be, each set that counts is whole: the
    ssl module has loaded it, and it was the same before and after."""
    files, ended = folder.files(), threading.Event()
    authority = trustme.CA()
    issued = [authority.issue_cert("a") for _ in range(8)]
    pairs = {
        b"".join(pem.bytes() for pem in one.cert_chain_pems): one.private_key_pem.bytes() for one in issued
    }  # certificate -> the key that fits
    folder.issue(authority)
    assert files.check()
    assert files.pem.certificate is not None
    assert files.pem.key is not None
    pairs[files.pem.certificate] = files.pem.key

    def replace() -> None:
        while not ended.is_set():
            for certificate, key in pairs.items():
                folder.write("tls.crt", certificate)
                folder.write("tls.key", key)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = 0
        while seen < 20:
            seen += files.check()
            assert pairs[files.pem.certificate or b""] == files.pem.key
    finally:
        ended.set()
        thread.join()


def test_a_key_is_never_shown(folder: Folder) -> None:
    """Not by the set, nor by the files, nor by an error."""
    pem = folder.files().pem
    assert pem.key is not None
    lines = [line for line in pem.key.decode().splitlines() if "-----" not in line]
    folder.write("tls.crt", pem.key)
    with pytest.raises(CertificateError) as error:
        folder.files()
    shown = f"{pem!r} {error.value} {error.value!r}"
    assert not any(line in shown for line in lines)
