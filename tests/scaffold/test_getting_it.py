"""Every way in which a person gets a project from this repository, by the tools that they use."""

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bake import bake, clean_copy, cookiecutter, run_cookiecutter

from .repositories import commit_all, git


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as others see it: a bare one with everything committed."""
    folder = tmp_path_factory.mktemp("upstream")
    work = clean_copy(folder / "work")
    commit_all(work)
    git(folder, "clone", "-q", "--bare", "work", "grpc-discovery.git")
    return folder / "grpc-discovery.git"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes out of a clean copy by its path, which every other way must equal."""
    return bake(tmp_path_factory.mktemp("expected"))


def tree(project: Path) -> dict[str, bytes]:
    """Its files with their content."""
    return {str(path.relative_to(project)): path.read_bytes() for path in project.rglob("*") if path.is_file()}


def assert_same(project: Path, expected: Path) -> None:
    """The same files with the same content and modes, and no link to anywhere."""
    assert tree(project).keys() == tree(expected).keys()
    different = [name for name in tree(expected) if not filecmp.cmp(project / name, expected / name, shallow=False)]
    assert not different
    assert not [path for path in project.rglob("*") if path.is_symlink()]
    assert [name for name in tree(expected) if os.access(expected / name, os.X_OK) != os.access(project / name, os.X_OK)] == []


def done(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("protocol", ["file://", ""], ids=["url", "path of a bare repository"])
def test_a_git_url(upstream: Path, expected: Path, tmp_path: Path, protocol: str) -> None:
    """As `cookiecutter https://host/repository.git`."""
    source = f"{protocol}{upstream}" if protocol else f"git+file://{upstream}"
    done(run_cookiecutter(source, "--no-input", "-o", str(tmp_path)))
    assert_same(tmp_path / "greeter", expected)


def test_a_clone_by_its_path_with_hooks_and_without(upstream: Path, expected: Path, tmp_path: Path) -> None:
    """Where links exist, a project needs no hook."""
    git(tmp_path, "clone", "-q", str(upstream), "clone")
    for hooks in ("yes", "no"):
        done(run_cookiecutter(str(tmp_path / "clone"), "--no-input", "--accept-hooks", hooks, "-o", str(tmp_path / hooks)))
        assert_same(tmp_path / hooks / "greeter", expected)


def test_a_zip_archive(upstream: Path, expected: Path, tmp_path: Path) -> None:
    """As hosts of repositories offer it; Python's zipfile, with which cookiecutter unpacks it, makes files of links."""
    archive = tmp_path / "main.zip"
    git(upstream, "archive", "--format=zip", "--prefix=grpc-discovery-main/", f"--output={archive}", "main")
    done(run_cookiecutter(str(archive), "--no-input", "-o", str(tmp_path)))
    assert_same(tmp_path / "greeter", expected)


def test_a_clone_as_on_windows(upstream: Path, expected: Path, tmp_path: Path) -> None:
    """With core.autocrlf=true and without symbolic links."""
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", "-c", "core.symlinks=false", str(upstream), "clone")
    assert (tmp_path / "clone" / "{{cookiecutter.project_slug}}").is_file()
    done(run_cookiecutter(str(tmp_path / "clone"), "--no-input", "-o", str(tmp_path)))
    assert_same(tmp_path / "greeter", expected)


def test_the_same_answers_again(upstream: Path, tmp_path: Path) -> None:
    """`--replay` of a bake from a URL."""
    home = tmp_path / "home"
    answers = ("project_name=Billing", "discovery=dns", 'description=It\'s "ours" 🎉')
    done(run_cookiecutter(f"file://{upstream}", "--no-input", "-o", str(tmp_path / "first"), *answers, home=home))
    shutil.rmtree(home / "clones")  # else cookiecutter asks whether to clone anew
    done(run_cookiecutter(f"file://{upstream}", "--replay", "-o", str(tmp_path / "second"), home=home))
    assert_same(tmp_path / "second" / "billing", tmp_path / "first" / "billing")


def test_a_python_that_has_only_cookiecutter_and_a_machine_that_has_no_settings(
    upstream: Path, expected: Path, tmp_path: Path
) -> None:
    """As `uvx cookiecutter` runs it: hooks may import nothing, and need no home."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    command = [sys.executable, "-I", "-m", "cookiecutter", f"file://{upstream}", "--no-input", "-o", str(tmp_path)]
    done(subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True))
    assert_same(tmp_path / "greeter", expected)


@pytest.mark.parametrize(
    ("name", "slug", "package"),
    [
        ("Order History", "order-history", "order_history"),
        ('Zoë\'s "Café"', "zoe-s-cafe", "zoe_s_cafe"),
        ("3D Printing", "app-3d-printing", "app_3d_printing"),
        ("🎉 Party", "party", "party"),
        ("數據", "shu-ju", "shu_ju"),
        ("Ça (va) \\ & <co>", "ca-va-co", "ca_va_co"),
    ],
)
def test_a_name_gives_a_folder_and_a_package(tmp_path: Path, name: str, slug: str, package: str) -> None:
    """Quotes, accents, emoji, digits at the start: what is proposed is valid."""
    project = bake(tmp_path, project_name=name)
    assert project.name == slug
    assert (project / "src" / package / "discovery" / "target.py").exists()
    assert (project / "README.md").read_text().startswith(f"# {name}\n")


@pytest.mark.parametrize("name", ["🎉", "A" * 60])
def test_a_name_from_which_nothing_can_be_made_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    """What to answer stands there."""
    result = cookiecutter(clean_copy(tmp_path / "copy"), tmp_path / "out", project_name=name)
    assert result.returncode != 0
    assert "must be lower-case letters, digits and single '-' between them, start with a letter" in result.stderr
    assert not list((tmp_path / "out").glob("*"))


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    """What others make is for nobody else to read."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_umask_of_077(narrow_umask: None, expected: Path, tmp_path: Path) -> None:
    """The same project."""
    assert_same(bake(tmp_path), expected)


MINE = {
    "src/greeter/pool.py": "mine",
    "tests/test_pool.py": "mine",
    "src/greeter/discovery/consul.py": "mine",
    "src/greeter/discovery/sources/mine/notes.txt": "mine",
    "deploy/overlays/staging/kustomization.yaml": "mine",
    ".env": "GREETER__SERVER__PORT=1",
    "certs/ca.crt": "mine",
}
EDITED = ("src/greeter/server/servicer.py", "Makefile", "README.md", "pyproject.toml")


@pytest.mark.parametrize("options", [("-f",), ("-f", "-s")], ids=" ".join)
def test_onto_a_project_with_files_of_its_owner(expected: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Nothing that the template does not have is lost; `-s` leaves what is there as it is, and renews the library."""
    project = tmp_path / "greeter"
    shutil.copytree(expected, project)
    for name, content in MINE.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(content)
    for name in EDITED:
        (project / name).write_text((project / name).read_text() + "# mine\n")
    (project / "src/greeter/discovery/target.py").write_text("# of an older version\n")
    (project / "buf.yaml").unlink()
    result = run_cookiecutter(str(clean_copy(tmp_path / "copy")), "--no-input", *options, "-o", str(tmp_path))
    done(result)
    found, fresh = tree(project), tree(expected)
    assert {name: found.pop(name).decode() for name in MINE} == MINE
    assert found.keys() == fresh.keys()
    changed = {name for name in fresh if found[name] != fresh[name]}
    assert changed == (set(EDITED) if "-s" in options else set())
    for name in MINE:
        assert (f"kept {name}, " in result.stderr) is name.startswith("src/greeter/discovery/")


def test_an_existing_folder_is_refused_without_f(expected: Path, tmp_path: Path) -> None:
    """By cookiecutter itself, before anything is touched."""
    shutil.copytree(expected, tmp_path / "greeter")
    result = cookiecutter(clean_copy(tmp_path / "copy"), tmp_path)
    assert result.returncode != 0
    assert "already exists" in result.stdout
    assert_same(tmp_path / "greeter", expected)
