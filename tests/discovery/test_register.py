"""A source of the program's own: its scheme in targets, lists, and the command line. The conformance suite runs one, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import discovery
from discovery import Config, TargetError, parse_target, register
from discovery.sources.source import open_source

from .conformance.json_file import JsonFile
from .servers import servers, until, who


def open_json(target: discovery.Target, config: Config) -> JsonFile:
    """As a program would register it."""
    return JsonFile(Path(target.name))


register("mine+1.x-y", open_json)


def test_any_text_is_a_name() -> None:
    """Percent-decoded, with ports, commas, and question marks; the authority is encoded as for every target."""
    target = parse_target("mine+1.x-y:///team/gre%65ter:50051,b?x#y")
    assert (target.scheme, target.name, target.port) == ("mine+1.x-y", "team/greeter:50051,b?x#y", "")
    assert target.ours
    assert target.authority == "team%2Fgreeter:50051,b%3Fx%23y"


@pytest.mark.parametrize("text", ["mine+1.x-y:///", "mine+1.x-y://host/name", "mine+1.x-y:/name", "mine+1.x-y:///%0a"])
def test_a_target_without_three_slashes_or_a_name_is_invalid(text: str) -> None:
    """As for every scheme of this library."""
    with pytest.raises(TargetError):
        parse_target(text)


def test_a_host_of_the_same_name_stays_a_host() -> None:
    """Registering changes no target that had a meaning before."""
    assert parse_target("mine+1.x-y:50051") == discovery.Target("mine+1.x-y:50051", "dns", "mine+1.x-y:50051")


@pytest.mark.parametrize("scheme", ["etcd", "static", "dns", "xds", "unix", "", "1a", "a b", "a:b", "Upper", "a/", "ä"])
def test_a_scheme_that_is_none_or_is_taken_is_refused(scheme: str) -> None:
    """Those of this library, of gRPC, and what no URI begins with."""
    with pytest.raises(TargetError):
        register(scheme, open_json)


def test_a_scheme_is_registered_once() -> None:
    """The same function again changes nothing, another is refused: two libraries must not exchange sources unseen."""
    register("mine+1.x-y", open_json)
    with pytest.raises(TargetError, match="taken"):
        register("mine+1.x-y", lambda target, config: JsonFile(Path()))
    assert isinstance(open_source(parse_target("mine+1.x-y:///x"), Config()), JsonFile)


def test_the_names_of_schemes_in_errors_include_it() -> None:
    """A typing error in a target is answered with what there is."""
    with pytest.raises(TargetError, match=r"mine\+1\.x-y"):
        parse_target("mine:///x")


def test_it_stands_in_a_list_of_targets(tmp_path: Path) -> None:
    """As the first of the list, and as the one to fall back to."""
    file = tmp_path / "endpoints.json"
    with servers("a", "b") as running:
        file.write_text(json.dumps([{"address": "127.0.0.1", "port": running["a"].port}]))
        other = discovery.Manual("register")
        other.set([running["b"].address])
        with discovery.insecure_channel(f"mine+1.x-y:///{file},{other.target}") as channel:
            assert who(channel) == "a"
        with discovery.insecure_channel(f"mine+1.x-y:///{tmp_path}/none,mine+1.x-y:///{file}") as channel:
            until(lambda: who(channel, wait_for_ready=True) == "a")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a folder of the user's."""
    environment = {**os.environ, "PYTHONPATH": str(Path(discovery.__file__).parents[1])}
    command = [sys.executable, "-m", "discovery", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_line_imports_the_module_that_registers(tmp_path: Path) -> None:
    """`resolve --import MODULE` finds it in the current folder."""
    (tmp_path / "my_sources.py").write_text(Path(sys.modules[JsonFile.__module__].__file__ or "").read_text())
    (tmp_path / "endpoints.json").write_text('[{"address": "10.0.0.1", "port": 50051}]')
    target = f"json-file:///{tmp_path}/endpoints.json"
    done = run(tmp_path, "resolve", "--no-health", "--import", "my_sources", target)
    assert done.returncode == 0, done.stderr
    assert "10.0.0.1:50051" in done.stdout
    done = run(tmp_path, "resolve", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the scheme 'json-file' is unknown" in done.stderr


@pytest.mark.parametrize(
    "content", [None, "raise LookupError('no\\nreason')", "import discovery\ndiscovery.register('etcd', None)"]
)
def test_a_module_that_cannot_be_imported_is_told_in_a_line(tmp_path: Path, content: str | None) -> None:
    """With exit status 2, as every invalid option."""
    if content is not None:
        (tmp_path / "my_sources.py").write_text(content)
    done = run(tmp_path, "resolve", "--import", "my_sources", "static:///127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m discovery: '--import my_sources': ")
    assert done.stderr.count("\n") == 1


def test_a_source_registered_by_the_program_is_closed_with_the_channel(tmp_path: Path) -> None:
    """It is a source like the others: one for all channels on a target, told to end with the last."""
    opened: list[JsonFile] = []

    def noted(target: discovery.Target, config: Config) -> JsonFile:
        opened.append(JsonFile(tmp_path / "none"))
        return opened[-1]

    register("mine-noted", noted)
    with discovery.insecure_channel("mine-noted:///x"), discovery.insecure_channel("mine-noted:///x"):
        until(lambda: "cannot be read" in (discovery.status("mine-noted:///x").last_error or ""))
        [source] = opened
    assert source._closed.wait(20)
