"""The documentation says what the code does: its commands exist, its links lead somewhere, its tables are the code's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from discovery import Config, Kubernetes, TargetError
from discovery.sources.source import SOURCES, open_source
from discovery.target import parse
from tests.bake import ROOT
from tests.discovery.conformance import test_promises
from tests.discovery.conformance.conftest import registries

from .settings_page import PAGE, page

INVENTED = {"discovery/sources/consul.py"}
"""Files of an example."""

LIBRARY = ROOT / "discovery" / "README.md"
OURS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
"""Pages of the repository."""
THEIRS = [*(ROOT / "template" / name for name in ("README.md", "SECURITY.md")), *sorted((ROOT / "template/docs").glob("*.md"))]
"""Pages of a generated project, with markup."""
PAGES = [*OURS, *THEIRS, LIBRARY]
PACKAGE = "{{cookiecutter.package_name}}"
"""As folders of the template have it."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    """Relative ones; the others are none of ours."""
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text()):
        if link.startswith("http"):
            continue
        to = path.parent / link if link else path
        assert to.exists(), link
        assert not anchor or anchor in anchors(to), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=name_of)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    """As the generated page of settings has it, with the prefix or without. The changelog names old ones, too."""
    known = set(re.findall(r"^\| `GREETER__([A-Z_]+)`", PAGE.read_text(), re.MULTILINE))
    sections = "|".join(sorted({name.partition("__")[0] for name in known if "__" in name}))
    for name in re.findall(rf"(?<![A-Z])(?:{sections})__[A-Z_]*[A-Z]", path.read_text()):
        assert name in known or name in INVENTED or name.startswith("SERVICE__"), name


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    """With its folder, relative to the repository, the project, the package, or the page; without one, anywhere."""
    text = re.sub(r"\{\{ ?cookiecutter\.(package_name|project_slug) ?\}\}", PACKAGE, path.read_text())
    made = {name for _, name in re.findall(r"^```(\w+).* file=(\S+)", text, re.MULTILINE)}
    bases = [ROOT, ROOT / "template", ROOT / "template/src" / PACKAGE, ROOT / "discovery", path.parent]
    for name in re.findall(r"`([\w{}./-]+\.(?:py|md|in|lock|toml|proto|sh|yaml))`", text):
        named = {name, name.replace("greeter", PACKAGE)}
        found = any((base / each).exists() for base in bases for each in named)
        assert found or ("/" not in name and NAMES & named) or named & (INVENTED | made), name


NAMES = {path.name for folder in ("discovery", "lab", "template", "tests") for path in (ROOT / folder).rglob("*")}
"""Of all files that a page may name without their folder."""


def targets(makefile: str) -> set[str]:
    """The targets of a Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / makefile).read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    """In the generated project; the repository's own pages name the repository's too."""
    known = targets("template/Makefile") | (set() if path in THEIRS else targets("Makefile"))
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE):
        assert target in known, target


def test_the_settings_page_is_fresh(linted: Path) -> None:
    """`make docs` would change nothing."""
    assert PAGE.read_text() == page(linted)


def test_every_target_in_the_readmes_is_understood() -> None:
    """As it is written there."""
    found = [target for path in PAGES for target in re.findall(r"`([a-z-]+:///[^`\s]+)`", path.read_text())]
    written = [target for target in found if target != "scheme:///name"]
    assert written
    for target in (text.replace(":port", ":50051") if "host:port" not in text else text for text in written):
        for form in {re.sub(r"\[[^]]*\]", "", target), re.sub(r"[][]", "", target)} if "host:port" not in target else ():
            assert parse(form).scheme == target.partition(":")[0]


@pytest.mark.parametrize("path", ["README.md", "discovery/README.md"])
def test_every_source_is_in_the_tables_of_targets(path: str) -> None:
    """One that arrives brings its line with it."""
    described = re.findall(r"^\| `([a-z-]+):///", (ROOT / path).read_text(), re.MULTILINE)
    assert set(SOURCES) <= set(described)


def test_every_source_can_be_opened_here() -> None:
    """What the tables promise is not only understood by the grammar."""
    config = Config(kubernetes=Kubernetes(kubeconfig="nowhere"))
    for scheme in SOURCES:
        target = parse(f"{scheme}:///{'127.0.0.1:1' if scheme == 'static' else 'name'}")
        if scheme == "kubernetes":
            with pytest.raises(TargetError, match="no credentials"):
                open_source(target, config)
        else:
            open_source(target, config).close()


def test_the_page_of_promises_has_the_suites_own() -> None:
    """Every promise, tried on every source, and kept: `make conformance` has written it since the last one came."""
    rows = [line.split(" | ") for line in (ROOT / "docs" / "conformance.md").read_text().splitlines() if line.startswith("| ")]
    promises = [
        (function.__doc__ or "").partition("\n")[0]
        for name, function in vars(test_promises).items()
        if name.startswith("test_") and callable(function)
    ]
    assert [row[0].removeprefix("| ") for row in rows[1:]] == promises
    assert [cell.strip(" |") for cell in rows[0][1:]] == list(registries())
    assert {cell.strip(" |").split(" ")[0] for row in rows[1:] for cell in row[1:]} == {"yes", "–"}


def test_the_example_of_the_kit_for_tests_runs() -> None:
    """As it stands in the library's README."""
    [example] = re.findall(r"```python\n(from discovery import testing\n.*?)```", LIBRARY.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", f"import discovery\n{example}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_on_sources_shows_the_one_that_the_suite_runs() -> None:
    """Its example is a file that keeps every promise."""
    example = (ROOT / "tests/discovery/conformance/json_file.py").read_text()
    assert f"```python\n{example}```\n" in (ROOT / "docs/adding-a-source.md").read_text()


def test_the_page_on_operating_names_every_variable_and_mode() -> None:
    """The variables that the project's make passes on, and the overlays and components that exist."""
    text = (ROOT / "template" / "docs" / "operating.md").read_text()
    passed_on = set(re.findall(r"^export ([A-Z_]+) \?=", (ROOT / "template" / "Makefile").read_text(), re.MULTILINE))
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", text, re.MULTILINE)
    assert set(re.findall(r"[A-Z_]+", " ".join(rows))) == passed_on - {"BUILDAH_LAYERS"}
    for folder in ("overlays", "components"):
        for path in (ROOT / "template" / "deploy" / folder).iterdir():
            assert f"`{path.name}`" in text, path.name


def test_no_page_of_a_project_names_a_command_or_variable_of_version_1() -> None:
    """`make scale` and the like are gone, and so are ConfigMaps."""
    for path in THEIRS:
        assert not re.search(r"\b(COMPONENTS|BUILD|DRY_RUN)=|envFrom|configMapRef", path.read_text()), path.name


def test_make_lists_every_command_with_what_it_does() -> None:
    """`make` alone is the manual."""
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split():
        assert re.search(rf"\b{target}\b.* \w", listed), target
