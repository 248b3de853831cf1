"""Settings: read from everywhere, checked as a whole, shown without secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from {{ cookiecutter.package_name }}.durations import seconds, text
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.settings_command import leaves, markdown, sentences

from .processes import PACKAGE


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` of the developer's."""
    monkeypatch.chdir(tmp_path)


def mistakes(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    """The sentences that these variables lead to."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        Settings()
    except ValidationError as error:
        return list(sentences(error))
    return []


@pytest.mark.parametrize(
    ("written", "meant"), [("30s", 30), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1.5", 1.5), ("7", 7), (" 3 s ", 3)]
)
def test_durations_are_read_as_people_write_them(written: str, meant: float) -> None:
    """And shown so that they can be read again."""
    assert seconds(written) == meant
    assert seconds(text(meant)) == meant


def test_the_environment_goes_before_the_dotenv_file_and_that_before_mounted_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One setting of a section leaves its others at their defaults."""
    (tmp_path / ".env").write_text("SERVER__NAME=dotenv\nSERVER__PORT=1\nOTHER=x\n")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, value in (("server__name", "file"), ("server__port", "2"), ("telemetry__otlp_headers", "token=secret")):
        (mounted / name).write_text(value)
    monkeypatch.setenv("SETTINGS_DIR", str(mounted))
    monkeypatch.setenv("SERVER__NAME", "environment")
    monkeypatch.setenv("SERVER__DRAIN__WAIT", "1s")
    settings = Settings()
    assert (settings.server.name, settings.server.port, settings.server.drain.wait) == ("environment", 1, 1.0)
    assert settings.server.drain.grace == 20.0
    assert settings.telemetry.otlp_headers is not None
    assert settings.telemetry.otlp_headers.get_secret_value() == "token=secret"


CONTRADICTIONS = [
    ({"CLIENT__KEEPALIVE__TIME": "15s"}, ["CLIENT__KEEPALIVE__TIME=15s", "SERVER__KEEPALIVE__MIN_PING_INTERVAL=10s", "raise"]),
    (
        {"SERVER__KEEPALIVE__PERMIT_WITHOUT_CALLS": "false"},
        ["CLIENT__KEEPALIVE__PERMIT_WITHOUT_CALLS=true", "SERVER__KEEPALIVE__PERMIT_WITHOUT_CALLS=false", "set both"],
    ),
    (
        {"CLIENT__KEEPALIVE__MAX_PINGS_WITHOUT_DATA": "2"},
        ["CLIENT__KEEPALIVE__TIME=30s", "MAX_PINGS_WITHOUT_DATA=2", "set the second to 0"],
    ),
    (
        {"SERVER__MAX_CONNECTION_AGE_GRACE": "none"},
        ["SERVER__MAX_CONNECTION_AGE=5m", "SERVER__MAX_CONNECTION_AGE_GRACE=none", "such as 30s"],
    ),
    ({"CLIENT__TIMEOUT": "31s"}, ["SERVER__MAX_CONNECTION_AGE_GRACE=30s", "CLIENT__TIMEOUT=31s", "raise"]),
    ({"SERVER__DRAIN__WAIT": "21s"}, ["SERVER__DRAIN__WAIT=21s", "SERVER__DRAIN__TERMINATION_GRACE=45s", "46s"]),
    ({"CLIENT__RETRY__ATTEMPTS": "1"}, ["CLIENT__RETRY__ATTEMPTS=1", "CLIENT__RETRY__ENABLED=true", "2 to 5"]),
    ({"CLIENT__RETRY__ATTEMPTS": "6"}, ["CLIENT__RETRY__ATTEMPTS=6", "CLIENT__RETRY__ENABLED=true", "2 to 5"]),
    ({"CLIENT__RETRY__STATUS_CODES": '["NOT_FOUND"]'}, ["NOT_FOUND", "CLIENT__RETRY__ENABLED=true", "UNAVAILABLE"]),
    ({"CLIENT__RETRY__INITIAL_BACKOFF": "2s"}, ["CLIENT__RETRY__INITIAL_BACKOFF=2s", "CLIENT__RETRY__MAX_BACKOFF=1s", "lower"]),
    ({"CLIENT__OUTLIERS__EJECTION": "2m"}, ["CLIENT__OUTLIERS__MAX_EJECTION=1m", "CLIENT__OUTLIERS__EJECTION=2m", "lower"]),
    (
        {"SERVER__MAX_CONCURRENT_STREAMS": "100"},
        ["SERVER__MAX_CONCURRENT_STREAMS=100", "SERVER__OVERLOAD_PROTECTION=true", "none"],
    ),
    (
        {"CLIENT__LOAD_BALANCING": "pick_first"},
        ["CLIENT__HEALTH_CHECK=true", "CLIENT__LOAD_BALANCING=pick_first", "set the first to false"],
    ),
    ({"CLIENT__SERVICE_CONFIG": '{"retryThrottling": {"maxTokens": 10, "tokenRatio": 1}}'}, ["tokenRatio=1", "write 1.0"]),
    (
        {"CLIENT__SERVICE_CONFIG": '{"methodConfig": [{"name": [{}], "timeout": "1s"}]}'},
        ["timeout=1s", "CLIENT__TIMEOUT, now 2s"],
    ),
    ({"CLIENT__SERVICE_CONFIG": '{"methodConfig": [{"hedgingPolicy": {}}]}'}, ["hedgingPolicy", "CLIENT__RETRY__ENABLED"]),
    ({"CLIENT__SERVICE_CONFIG": '{"methodConfig": [{"retrypolicy": {}}]}'}, ["'retrypolicy'", "retryPolicy"]),
    (
        {
            "CLIENT__SERVICE_CONFIG": '{"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "1", "maxBackoff": "1s"}}]}'
        },
        ["initialBackoff='1'", "1.5s"],
    ),
    (
        {"CLIENT__SERVICE_CONFIG": '{"healthCheckConfig": {}, "loadBalancingConfig": [{"pick_first": {}}]}'},
        ["healthCheckConfig", "pick_first"],
    ),
    ({"CLIENT__SERVICE_CONFIG": "{"}, ["CLIENT__SERVICE_CONFIG cannot be read", "in JSON"]),
]


@pytest.mark.parametrize(("environment", "words"), CONTRADICTIONS)
def test_what_cannot_work_is_refused_in_a_sentence_that_names_both_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: list[str]
) -> None:
    """gRPC would say nothing, and lose calls later."""
    found = mistakes(monkeypatch, **environment)
    assert any(all(word in sentence for word in words) for sentence in found), found


def test_the_defaults_do_not_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart of the test above."""
    assert mistakes(monkeypatch) == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SERVER__PORT": "many"}, "SERVER__PORT='many' cannot be: Input should be a valid integer"),
        ({"SERVER__PORT": "70000"}, "SERVER__PORT='70000' cannot be: Input should be less than or equal to 65535"),
        ({"SERVER__DRAIN__WAIT": "soon"}, "SERVER__DRAIN__WAIT='soon' cannot be: write a duration such as 30s"),
        ({"SERVER__PROT": "1"}, "SERVER__PROT is no setting"),
        ({"CLIENT__RATE": "0"}, "CLIENT__RATE='0' cannot be: Input should be greater than 0"),
    ],
)
def test_a_mistyped_value_is_one_sentence_with_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    """No traceback for what a user mistyped."""
    assert any(found.startswith(sentence) for found in mistakes(monkeypatch, **environment))


@pytest.mark.parametrize("role", ["server", "client"])
def test_mistakes_end_the_commands_with_status_2_and_settings_can_be_shown(role: str) -> None:
    """As a user sees it; secrets are stars."""
    source = str(Path(__file__).parents[1] / "src")

    def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"{PACKAGE}.{role}", *arguments],
            env={**os.environ, "PYTHONPATH": source, **environment}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    refused = command(CLIENT__KEEPALIVE__TIME="3s")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("settings: CLIENT__KEEPALIVE__TIME=3s")
    assert "Traceback" not in refused.stderr
    shown = command("--print-settings", SERVER__DRAIN__WAIT="1500ms", TELEMETRY__OTLP_HEADERS="token=hidden")
    assert shown.returncode == 0
    assert "SERVER__DRAIN__WAIT=1.5s\n" in shown.stdout
    assert "TELEMETRY__OTLP_HEADERS=***\n" in shown.stdout
    assert "hidden" not in shown.stdout


def test_every_setting_is_described() -> None:
    """The table for the documentation holds all of them."""
    table = markdown()
    for name, field, _ in leaves(Settings):
        assert field.description, name
        assert f"| `{name}` |" in table
