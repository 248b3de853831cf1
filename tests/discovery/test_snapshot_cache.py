"""snapshot_cache.py: the last known good set in a file."""

import json
import os
import queue
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.config import Backoff, Config, Empty, Remember
from discovery.errors import SourceError, TargetError
from discovery.resolving.resolver import Resolver
from discovery.resolving.snapshot_cache import SnapshotCache
from discovery.snapshot import Endpoint, Health, Snapshot
from discovery.target import parse

from .fakes import Script, on_sets, snapshot, unready
from .servers import DEADLINE, until

TARGET = "kubernetes:///greeter:grpc"
FULL = Snapshot.of(
    [Endpoint("10.0.0.1", 80, "a", 3, Health.DRAINING, "pod", "node", ("a", "b"), "{}", ("node",)), Endpoint("::1", 81)]
)


def memory(folder: Path, now: float = 1000.0, max_age: float = 60.0) -> SnapshotCache:
    return SnapshotCache(Remember(str(folder), max_age), TARGET, "script", clock=lambda: now)


def test_what_was_written_is_read_in_full(tmp_path: Path) -> None:
    """Every field of every endpoint, into a directory that is made, by a writer that leaves nothing else behind."""
    folder = tmp_path / "deep" / "er"
    memory(folder).write(FULL)
    assert memory(folder, 1060.0).read() == FULL
    assert list(folder.iterdir()) == [memory(folder).path]


@pytest.mark.parametrize(("now", "reason"), [(1060.1, "it is 60 s old"), (999.0, "written 1 s in the future; the clock")])
def test_a_file_that_is_too_old_or_from_the_future_is_not_believed(
    tmp_path: Path, now: float, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that was set back must not make it eternal."""
    memory(tmp_path).write(FULL)
    assert memory(tmp_path, now).read() is None
    assert reason in caplog.text


@given(damage=st.binary(max_size=60), at=st.integers(0, 400))
def test_a_damaged_file_is_as_good_as_none(damage: bytes, at: int) -> None:
    """Whatever is in it, reading never raises, and gives a set that could be sent or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        kept = memory(Path(folder))
        kept.write(FULL)
        content = kept.path.read_bytes()
        kept.path.write_bytes(content[:at] + damage + content[at + len(damage) // 2 :])
        found = kept.read()
    assert found is None or all(1 <= endpoint.port <= 65535 for endpoint in found.endpoints)


@pytest.mark.parametrize("written", [10**400, -(10**400), float("inf"), float("nan"), "now", None])
def test_a_time_that_is_none_is_not_believed(tmp_path: Path, written: object) -> None:
    """Nor does it end the thread that reads it."""
    kept = memory(tmp_path)
    kept.write(FULL)
    kept.path.write_text(json.dumps({**json.loads(kept.path.read_text()), "written": written}))
    assert kept.read() is None


@pytest.mark.parametrize("place", range(9))
def test_a_number_without_an_end_is_not_believed(tmp_path: Path, place: int) -> None:
    """In any field of an endpoint."""
    kept = memory(tmp_path)
    kept.write(FULL)
    content = json.loads(kept.path.read_text())
    content["endpoints"][0][place] = float("inf")
    kept.path.write_text(json.dumps(content))
    assert kept.read() is None


@pytest.mark.parametrize("key", ["version", "target", "registry"])
def test_a_file_of_another_target_registry_or_version_is_not_believed(tmp_path: Path, key: str) -> None:
    """Files are named by a hash, and formats change."""
    kept = memory(tmp_path)
    kept.write(FULL)
    kept.path.write_text(json.dumps({**json.loads(kept.path.read_text()), key: "another"}))
    assert kept.read() is None


def test_each_registry_has_a_file_of_its_own(tmp_path: Path) -> None:
    """The same target in production and in staging names other servers."""
    production, staging = (SnapshotCache(Remember(str(tmp_path)), TARGET, registry) for registry in ("10.0.0.1", "10.0.0.2"))
    production.write(FULL)
    assert staging.read() is None
    staging.write(snapshot(1))
    assert (production.read(), staging.read()) == (FULL, snapshot(1))


@pytest.mark.parametrize("kind", ["symbolic link", "pipe", "directory", "another user's"])
def test_what_is_no_file_of_this_user_is_not_believed(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that others can write to, they would choose the servers; and a pipe would be waited for."""
    kept = memory(tmp_path)
    kept.write(FULL)
    aside = kept.path.rename(tmp_path / "aside")
    if kind == "symbolic link":
        kept.path.symlink_to(aside)
    elif kind == "pipe":
        os.mkfifo(kept.path)
    elif kind == "directory":
        kept.path.mkdir()
    else:
        aside.rename(kept.path)
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert kept.read() is None
    assert "cannot be used" in caplog.text


def test_the_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    """The file, too."""
    kept = memory(tmp_path / "made")
    kept.write(FULL)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept.path.parent, kept.path)] == [0o700, 0o600]


def test_a_file_that_cannot_be_used_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not at every attempt to reach the registry; and again after it was written anew. What it holds is escaped."""
    kept = memory(tmp_path)
    for expected in (1, 2):
        kept.write(FULL)
        content = json.loads(kept.path.read_text())
        content["endpoints"][0][4] = "\x1b[2J\u202e\n"
        kept.path.write_text(json.dumps(content))
        assert (kept.read(), kept.read()) == (None, None)
        assert len(caplog.records) == expected
        assert caplog.records[-1].getMessage().isprintable()


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It costs a line in the log, and neither the set nor the client."""
    (tmp_path / "file").touch()
    kept = memory(tmp_path / "file" / "below")
    kept.write(FULL)
    kept.write(FULL)
    assert [record.message for record in caplog.records if "cannot be kept" in record.message] == [caplog.records[0].message]
    assert kept.read() is None


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is written beside it, and a half of it is removed."""
    kept = memory(tmp_path)
    kept.write(FULL)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    kept.write(snapshot(1))
    assert kept.read() == FULL
    assert list(tmp_path.iterdir()) == [kept.path]


@pytest.mark.parametrize("max_age", [0, 1e12])
def test_an_age_that_cannot_be_meant_is_refused(max_age: float) -> None:
    """In the words of the setting."""
    with pytest.raises(TargetError, match=r"Remember\(max_age="):
        Remember("x", max_age)


class Run:
    """A resolver with a memory over a scripted source."""

    def __init__(self, folder: Path, max_age: float = 60.0) -> None:
        self.source = Script()
        self.passed: queue.Queue[Snapshot] = queue.Queue()
        config = Config(coalesce=0, backoff=Backoff(0.01, 0.01), empty=Empty("fail"), remember=Remember(str(folder), max_age))
        self.resolver = Resolver(parse(TARGET), self.source, config)
        on_sets(self.resolver, self.passed.put)
        self.resolver.start()

    def close(self) -> None:
        self.resolver.close()
        assert self.resolver.join(DEADLINE)


def kept_in(folder: Path) -> Snapshot | None:
    return SnapshotCache(Remember(str(folder)), TARGET, "script").read()


def test_a_client_starts_with_it_while_the_registry_is_down_and_lets_it_go_after(tmp_path: Path) -> None:
    """Only once the source has failed; it is stale, not synced; it does not make itself younger; and the registry's own word ends it."""
    SnapshotCache(Remember(str(tmp_path)), TARGET, "script").write(FULL)
    [path] = tmp_path.iterdir()
    before = path.read_bytes()
    run = Run(tmp_path)
    run.source.steps.put(SourceError("down"))
    assert run.passed.get(timeout=DEADLINE) == FULL
    until(lambda: run.resolver.status.state == "stale")
    assert run.resolver.status.last_error == "down"
    assert path.read_bytes() == before
    run.source.steps.put(snapshot(1))
    assert run.passed.get(timeout=DEADLINE) == snapshot(1)
    until(lambda: kept_in(tmp_path) == snapshot(1))
    run.close()


def test_a_registry_that_answers_is_believed_rather_than_the_file(tmp_path: Path) -> None:
    """The old set is not even shown."""
    SnapshotCache(Remember(str(tmp_path)), TARGET, "script").write(FULL)
    run = Run(tmp_path)
    run.source.steps.put(snapshot(1))
    assert run.passed.get(timeout=DEADLINE) == snapshot(1)
    run.close()


@pytest.mark.parametrize("useless", [snapshot(), unready(1, 2)])
def test_a_set_without_anybody_to_call_is_not_kept(tmp_path: Path, useless: Snapshot) -> None:
    """With it a client could not start."""
    run = Run(tmp_path)
    run.source.steps.put(snapshot(1))
    until(lambda: kept_in(tmp_path) == snapshot(1))
    run.source.steps.put(useless)
    until(lambda: run.resolver.status.snapshot == useless)
    run.close()
    assert kept_in(tmp_path) == snapshot(1)


def test_a_set_that_never_changes_stays_young_while_the_source_is_watched(tmp_path: Path) -> None:
    """Its age is the time since it was last known to be true."""
    run = Run(tmp_path, max_age=1.0)
    run.source.steps.put(snapshot(1))
    until(lambda: kept_in(tmp_path) is not None)
    [path] = tmp_path.iterdir()
    first = json.loads(path.read_text())["written"]
    until(lambda: json.loads(path.read_text())["written"] > first)
    run.close()


def test_by_default_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client leaves no trace unless it was asked to."""
    monkeypatch.chdir(tmp_path)
    source = Script()
    resolver = Resolver(parse(TARGET), source, Config(coalesce=0))
    resolver.start()
    source.steps.put(snapshot(1))
    resolver.wait_until_synced(DEADLINE)
    resolver.close()
    assert resolver.join(DEADLINE)
    assert not list(tmp_path.iterdir())
