"""Settings: their sources, and the error for each mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.defaults import PREFIX
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.settings.command import load, print_settings

Set = Callable[..., None]
Refusal = Callable[[], list[str]]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets variables, named without the prefix."""

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(PREFIX + name, value)

    return set_all


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Loads invalid settings; the error's sentences, with the prefix shown as P__."""

    def refused() -> list[str]:
        with pytest.raises(SystemExit) as ended:
            load()
        assert ended.value.code == 2
        return capsys.readouterr().err.replace(PREFIX, "P__").splitlines()

    return refused


def test_only_names_with_the_prefix_count(environment: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs' variables are ignored, and those that Kubernetes sets for every Service."""
    for name in ("LOG", "SERVER", "TLS", "SERVER__PORT"):
        monkeypatch.setenv(name, "x")
    environment(SERVER__NAME="a")
    settings = load()
    assert (settings.server.name, settings.server.port) == ("a", 50051)


def test_the_environment_goes_before_the_dotenv_file_and_that_before_the_folder(environment: Set, tmp_path: Path) -> None:
    """Setting one value leaves the others of its section at their defaults."""
    (tmp_path / ".env").write_text(f"{PREFIX}SERVER__NAME=dotenv\n{PREFIX}SERVER__PORT=1\nOTHER=x\n")
    folder = tmp_path / "mounted"
    folder.mkdir()
    for name, value in (("SERVER__NAME", "file"), ("SERVER__PORT", "2"), ("DISCOVERY__ETCD__PASSWORD", "secret\n")):
        (folder / f"{PREFIX}{name}").write_text(value)
    environment(SETTINGS_DIR=str(folder), SERVER__NAME="environment", SERVER__DRAIN__WAIT="1s")
    settings = load()
    assert (settings.server.name, settings.server.port, settings.server.drain.wait) == ("environment", 1, 1.0)
    assert settings.server.drain.grace == 20.0
    assert settings.discovery.etcd.password.get_secret_value() == "secret"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SERVER__PORT", "many", "P__SERVER__PORT='many' is invalid: Input should be a valid integer"),
        ("SERVER__DRAIN__WAIT", "soon", "P__SERVER__DRAIN__WAIT='soon' is invalid: write a duration such as 30s"),
        ("SERVER__PROT", "1", "P__SERVER__PROT in the environment is not a setting; did you mean P__SERVER__PORT?"),
        ("TLS_MODE", "mtls", "P__TLS_MODE in the environment is not a setting; did you mean P__TLS__MODE?"),
        ("TLS__MODE", "mtls", "P__TLS__MODE=mtls with P__TLS__CERTIFICATE and P__TLS__KEY and P__TLS__CA empty"),
        ("CLIENT__RETRY__ATTEMPTS", "6", "P__CLIENT__RETRY__ATTEMPTS='6' is invalid"),
        ("SERVER__DRAIN__TERMINATION_GRACE", "30s", "P__SERVER__DRAIN__WAIT=10s and P__SERVER__DRAIN__GRACE=20s"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_variable(
    environment: Set, refusal: Refusal, name: str, value: str, sentence: str
) -> None:
    """Exit status 2 without a traceback, for invalid values and combinations."""
    environment(**{name: value})
    (said,) = refusal()
    assert said.startswith(f"settings: {sentence}")


def test_all_mistakes_are_reported_together(environment: Set, refusal: Refusal) -> None:
    """One start finds them all."""
    environment(SERVER__PORT="many", LOG__LEVEL="loud", CLIENT__RATE="0")
    assert len(refusal()) == 3


def test_a_mistyped_secret_is_not_shown(environment: Set, refusal: Refusal) -> None:
    """Standard error goes into logs."""
    environment(DISCOVERY__ETCD__PASWORD="hidden")
    assert "hidden" not in " ".join(refusal())


def test_what_a_dotenv_file_or_the_folder_has_wrong_names_the_file(environment: Set, refusal: Refusal, tmp_path: Path) -> None:
    """A missing folder is an error, too: otherwise its settings would be silently missing."""
    (tmp_path / ".env").write_text(f"{PREFIX}SERVER__PROT=1\n")
    assert refusal() == ["settings: P__SERVER__PROT in .env is not a setting; did you mean P__SERVER__PORT?"]
    (tmp_path / ".env").write_bytes(b"# Andr\xe9\n")
    assert refusal() == ["settings: the file .env cannot be read: it is not UTF-8 text"]
    (tmp_path / ".env").unlink()
    environment(SETTINGS_DIR=f"{tmp_path}/missing")
    assert refusal() == [f"settings: P__SETTINGS_DIR={tmp_path}/missing cannot be read: No such file or directory"]
    environment(SETTINGS_DIR=str(tmp_path))
    (tmp_path / f"{PREFIX}SERVER__NAME").write_bytes(b"\xff\0")
    assert refusal() == [f"settings: the file {tmp_path}/P__SERVER__NAME cannot be read: it is not UTF-8 text"]


def test_what_is_printed_is_a_dotenv_file_of_the_same_settings(
    environment: Set, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except for secrets, which are comments."""
    values = {"SERVER__NAME": "a b", "SERVER__DRAIN__WAIT": "1.5s", "DISCOVERY__ETCD__ENDPOINTS": '["a:1", "b:2"]'}
    with monkeypatch.context():
        environment(**values, DISCOVERY__ETCD__PASSWORD="hidden")
        print_settings(load())
    printed = capsys.readouterr().out
    assert f"# {PREFIX}DISCOVERY__ETCD__PASSWORD=***\n" in printed
    assert f"{PREFIX}SERVER__NAME='a b'\n" in printed
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(printed.replace("# ", "").replace("***", "token=hidden"))
    print_settings(Settings())
    assert capsys.readouterr().out == printed
