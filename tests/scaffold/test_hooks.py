"""hooks/: what an answer may be, what is kept of the owner's, and lost links."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from hooks import post_gen_project, pre_gen_project, pre_prompt
from tests.bake import ROOT, clean_copy, cookiecutter, run_cookiecutter

GOOD = {
    "project_name": 'Zoë\'s "Pair"',
    "project_slug": "zoe-s-pair",
    "package_name": "zoe_s_pair",
    "description": 'It\'s a "pair" \\ of services: {ünïcode}',
    "discovery": "kubernetes",
    "image_registry": "registry.example.com:5000/team/a",
    "python_version": "3.11",
}


def test_good_answers_are_accepted() -> None:
    """Quotes, accents and spaces belong in a name."""
    assert list(pre_gen_project.problems(GOOD)) == []


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("project_name", "", "must be one line"),
        ("project_name", "a\nb", "must be one line"),
        ("description", "a\tb", "must be one line"),
        ("project_slug", "9lives", "start with a letter"),
        ("project_slug", "Greeter", "lower-case letters"),
        ("project_slug", "a-", "single '-' between them"),
        ("project_slug", "a--b", "single '-' between them"),
        ("project_slug", "on", "'on' is not a string in YAML; choose another, such as on-service"),
        ("project_slug", "null", "is not a string in YAML"),
        ("project_slug", "", "answer for example order-history"),
        ("project_slug", "a" * 41, "at most 40 characters"),
        ("package_name", "my-package", "letters, digits and single '_'"),
        ("package_name", "a__b", "single '_' between them"),
        ("package_name", "class", "is a Python keyword"),
        ("package_name", "match", "is a Python keyword"),
        ("package_name", "json", "would hide a package"),
        ("package_name", "grpc", "would hide a package"),
        ("package_name", "discovery", "would hide a package"),
        ("package_name", "server", "choose another, such as my_server"),
        ("package_name", "tests", "choose another, such as tests_service"),
        ("image_registry", "https://registry", "without a scheme"),
        ("image_registry", "Registry/x", "in lower case"),
        ("image_registry", "registry.example.com/team/", "without a scheme"),
        ("image_registry", "registry..example", "without a scheme"),
        ("discovery", "consul", "answer one of kubernetes, dns, etcd"),
        ("python_version", "2.7", "answer one of 3.11"),
    ],
)
def test_a_bad_answer_is_refused_in_one_sentence_that_names_it(
    capsys: pytest.CaptureFixture[str], key: str, value: str, sentence: str
) -> None:
    """And says what to answer instead."""
    assert pre_gen_project.main({**GOOD, key: value}) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"cookiecutter: {key} ")
    assert sentence in said[0]


def test_no_section_of_the_settings_can_be_the_package() -> None:
    """SERVER__SERVER__PORT would be hard to read, for people and in messages."""
    page = (ROOT / "docs" / "settings.md").read_text()
    sections = {name.lower() for name in re.findall(r"^\| `GREETER__([A-Z]+)__", page, re.MULTILINE)}
    assert "server" in sections
    assert sections <= pre_gen_project.CONFUSING | pre_gen_project.TAKEN


def test_a_refused_bake_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    """Through cookiecutter itself."""
    done = cookiecutter(clean_copy(tmp_path / "copy"), tmp_path / "out", package_name="import")
    assert done.returncode != 0
    assert "package_name 'import' is a Python keyword" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_an_unknown_choice_is_refused_from_the_command_line_and_from_a_recording(tmp_path: Path) -> None:
    """cookiecutter itself stops the first, before any hook; the second reaches the hook."""
    copy = clean_copy(tmp_path / "copy")
    done = cookiecutter(copy, tmp_path / "out", discovery="consul")
    assert done.returncode != 0
    assert "the choices are ['kubernetes', 'dns', 'etcd']" in done.stderr
    recording = tmp_path / "recording.json"
    recording.write_text(json.dumps({"cookiecutter": {**GOOD, "discovery": "consul", "__service": "X", "__prefix": "X__"}}))
    done = run_cookiecutter(str(copy), "-o", str(tmp_path / "out"), "--replay-file", str(recording))
    assert done.returncode != 0
    assert "discovery 'consul' is unknown; answer one of kubernetes, dns, etcd" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


LINKS = {
    "template/src/{{cookiecutter.package_name}}/discovery": "../../../discovery",
    "{{cookiecutter.project_slug}}": "template",
}


def test_these_are_the_links_of_the_repository() -> None:
    """Cookiecutter finds the template by one, a project gets the library by the other."""
    assert set(LINKS) == set(pre_prompt.LINKS)
    for link, to in LINKS.items():
        assert os.readlink(ROOT / link) == to


def repository(folder: Path) -> Path:
    """As much of this repository as the repair needs."""
    (folder / "discovery").mkdir()
    (folder / "discovery" / "target.py").touch()
    (folder / "template/src/{{cookiecutter.package_name}}").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("lost", ["file", "missing"])
def test_lost_links_are_repaired(tmp_path: Path, lost: str) -> None:
    """A zip archive or a clone without symbolic links turns them into text files."""
    root = repository(tmp_path)
    for link, to in LINKS.items():
        if lost == "file":
            (root / link).write_text(to)
    assert pre_prompt.repair(root) == list(LINKS)
    assert (root / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/discovery/target.py").exists()
    assert (root / "template").is_dir()
    assert pre_prompt.repair(root) == []


def test_links_that_are_there_are_left_alone(tmp_path: Path) -> None:
    """As in a clone on most machines."""
    root = repository(tmp_path)
    for link, to in LINKS.items():
        (root / link).symlink_to(to)
    assert pre_prompt.repair(root) == []
    assert all((root / link).is_symlink() for link in LINKS)


def test_a_bake_from_a_checkout_in_which_somebody_has_worked_is_clean(tmp_path: Path) -> None:
    """Compiled Python of the template's is none of the project's."""
    copy = clean_copy(tmp_path / "copy")
    for folder in ("discovery/__pycache__", "template/tests/__pycache__"):
        (copy / folder).mkdir()
        (copy / folder / "x.cpython-311.pyc").write_bytes(b"\x00\xff")
    done = cookiecutter(copy, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").rglob("__pycache__"))


LIBRARY = Path("src/billing/discovery")


def generate(root: Path, *, fails: bool = False) -> list[Path]:
    """What cookiecutter does with a project that is there already, as far as it can lose something."""
    assert pre_gen_project.main({**GOOD, "package_name": "billing"}) == 0
    shutil.rmtree(root / LIBRARY, ignore_errors=True)
    if fails:
        return []
    (root / LIBRARY / "sources").mkdir(parents=True)
    (root / LIBRARY / "target.py").write_text("new")
    return post_gen_project.bring_back(root, "billing")


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with files of the owner's in the library's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / LIBRARY / "sources").mkdir(parents=True)
    (tmp_path / LIBRARY / "target.py").write_text("old")
    (tmp_path / LIBRARY / "sources" / "consul.py").write_text("mine")
    (tmp_path / LIBRARY / "more").mkdir()
    (tmp_path / LIBRARY / "more" / "mine.txt").write_text("mine too")
    return tmp_path


def test_a_project_that_is_generated_again_keeps_the_owners_files_in_the_librarys_folder(owned: Path) -> None:
    """And has the new library; nothing else is left."""
    assert generate(owned) == [LIBRARY / "more/mine.txt", LIBRARY / "sources/consul.py"]
    found = {str(path.relative_to(owned / LIBRARY)): path.read_text() for path in (owned / LIBRARY).rglob("*") if path.is_file()}
    assert found == {"target.py": "new", "sources/consul.py": "mine", "more/mine.txt": "mine too"}
    assert [path.name for path in owned.iterdir()] == ["src"]


def test_what_a_failed_generation_has_deleted_comes_back_with_the_next_one(owned: Path) -> None:
    """Whatever stopped it in between: a full disk, Ctrl-C."""
    generate(owned, fails=True)
    assert not (owned / LIBRARY).exists()
    assert generate(owned) == [LIBRARY / "more/mine.txt", LIBRARY / "sources/consul.py"]
    assert generate(owned) == [LIBRARY / "more/mine.txt", LIBRARY / "sources/consul.py"]


def test_a_refused_answer_moves_nothing(owned: Path) -> None:
    """The project is as it was."""
    assert pre_gen_project.main({**GOOD, "package_name": "billing", "discovery": "consul"}) == 1
    assert [path.name for path in owned.iterdir()] == ["src"]


def test_both_hooks_mean_the_same_folder() -> None:
    """Each runs alone, so that each has the name."""
    assert pre_gen_project.ASIDE == post_gen_project.ASIDE


def test_the_hooks_are_short() -> None:
    """Each is read by everyone who bakes, before it runs on their machine."""
    for path in (ROOT / "hooks").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 120, path.name
