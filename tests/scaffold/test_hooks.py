"""hooks/: what an answer may be, what is left out, and a lost link."""

import json
import re
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
    "registries": "all",
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
        ("project_slug", "9lives", "begin with a letter"),
        ("project_slug", "Greeter", "lower-case letters"),
        ("project_slug", "a-", "not end with '-'"),
        ("project_slug", "a" * 41, "at most 40 characters"),
        ("package_name", "my-package", "letters, digits and '_'"),
        ("package_name", "class", "is a word of Python itself"),
        ("package_name", "match", "is a word of Python itself"),
        ("package_name", "json", "would hide a package"),
        ("package_name", "grpc", "would hide a package"),
        ("package_name", "discovery", "would hide a package"),
        ("package_name", "greeter", "answer another, such as greeter_service"),
        ("image_registry", "https://registry", "without a scheme"),
        ("image_registry", "Registry/x", "in lower case"),
        ("image_registry", "registry.example.com/team/", "without a scheme"),
        ("image_registry", "registry..example", "without a scheme"),
        ("discovery", "consul", "answer one of kubernetes, dns, etcd"),
        ("registries", "some", "answer one of all, chosen"),
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


def test_every_package_that_a_project_has_is_taken() -> None:
    """What the template brings cannot be the package's name."""
    own = {path.name for path in (ROOT / "template" / "src").iterdir() if path.is_dir() and "cookiecutter" not in path.name}
    assert own <= pre_gen_project.TAKEN
    assert "demo" in pre_gen_project.TAKEN


def test_a_refused_bake_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    """Through cookiecutter itself."""
    done = cookiecutter(clean_copy(tmp_path / "copy"), tmp_path / "out", package_name="import")
    assert done.returncode != 0
    assert "package_name 'import' is a word of Python itself" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_an_unknown_choice_is_refused_from_the_command_line_and_from_a_recording(tmp_path: Path) -> None:
    """cookiecutter itself stops the first, before any hook; the second reaches the hook."""
    copy = clean_copy(tmp_path / "copy")
    done = cookiecutter(copy, tmp_path / "out", discovery="consul")
    assert done.returncode != 0
    assert "the choices are ['kubernetes', 'dns', 'etcd']" in done.stderr
    recording = tmp_path / "recording.json"
    recording.write_text(json.dumps({"cookiecutter": {**GOOD, "discovery": "consul"}}))
    done = run_cookiecutter(str(copy), "-o", str(tmp_path / "out"), "--replay-file", str(recording))
    assert done.returncode != 0
    assert "discovery 'consul' is unknown; answer one of kubernetes, dns, etcd" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("discovery", ["kubernetes", "dns", "etcd"])
def test_only_the_other_registries_are_left_out_and_only_on_request(discovery: str) -> None:
    """The manifest names what belongs to a registry alone, and nothing that does not exist."""
    assert list(post_gen_project.left_out({"registries": "all", "discovery": discovery})) == []
    left = set(post_gen_project.left_out({"registries": "chosen", "discovery": discovery}))
    tables = {"src/discovery": post_gen_project.MANIFEST, "deploy": post_gen_project.DEPLOYED}
    others = [(root, paths) for root, table in tables.items() for registry, paths in table.items() if registry != discovery]
    assert left == {f"{root}/{path}" for root, paths in others for path in paths}
    for path in left:
        assert (ROOT / "template" / path).exists(), path


def test_a_manifest_that_names_what_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """The list and the template must agree."""
    with pytest.raises(FileNotFoundError):
        post_gen_project.apply(tmp_path, {"registries": "chosen", "discovery": "etcd"})


def packages(lock: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))


@pytest.mark.parametrize("name", post_gen_project.LOCKS)
def test_a_lock_loses_what_only_a_registry_that_is_left_out_needs(name: str) -> None:
    """And nothing else: what another package wants too stays, and no comment names what is gone."""
    lock = (ROOT / "template/requirements" / name).read_text()
    assert post_gen_project.without(lock, set()) == lock
    less = post_gen_project.without(lock, {"kubernetes"})
    gone = packages(lock) - packages(less)
    assert {"kubernetes", "aiohttp", "yarl"} <= gone
    assert {"requests", "urllib3", "idna", "typing-extensions", "dnspython"} <= packages(less)
    assert not [line for line in less.splitlines() if line.startswith("    # ") and line.split()[-1] in gone]
    assert set(less.splitlines()) - set(lock.splitlines()) <= {f"    # via {each}" for each in packages(less)}
    with pytest.raises(LookupError, match="the lock holds no consul"):
        post_gen_project.without(lock, {"consul", "kubernetes"})


def test_a_lost_link_is_repaired(tmp_path: Path) -> None:
    """A zip archive or a clone without symbolic links turns it into a text file."""
    link = "{{cookiecutter.project_slug}}"
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "file").touch()
    (tmp_path / link).write_text("template")
    assert pre_prompt.repair(tmp_path)
    assert (tmp_path / link / "file").exists()
    assert not pre_prompt.repair(tmp_path)


@pytest.mark.parametrize("lost", ["file", "missing"])
def test_a_bake_works_without_the_link(tmp_path: Path, lost: str) -> None:
    """Through cookiecutter itself."""
    copy = clean_copy(tmp_path / "copy")
    (copy / "{{cookiecutter.project_slug}}").unlink()
    if lost == "file":
        (copy / "{{cookiecutter.project_slug}}").write_text("template")
    done = cookiecutter(copy, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "greeter-pair" / "src" / "discovery" / "target.py").exists()


def test_a_bake_from_a_checkout_in_which_somebody_has_worked_is_clean(tmp_path: Path) -> None:
    """Compiled Python of the template's is none of the project's."""
    copy = clean_copy(tmp_path / "copy")
    for folder in ("template/src/discovery/__pycache__", "template/tests/__pycache__"):
        (copy / folder).mkdir()
        (copy / folder / "x.cpython-311.pyc").write_bytes(b"\x00\xff")
    done = cookiecutter(copy, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").rglob("__pycache__"))


def test_the_hooks_are_short() -> None:
    """Each is read by everyone who bakes, before it runs on their machine."""
    for path in (ROOT / "hooks").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 120, path.name
