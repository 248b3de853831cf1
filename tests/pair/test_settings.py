"""Settings: read from everywhere, checked as a whole, shown without secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.certificates import Authority, write

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
    ({"TLS__MODE": "mtls"}, ["TLS__MODE=mtls", "TLS__CERTIFICATE and TLS__KEY and TLS__CA empty", "/etc/tls/ca.crt"]),
    ({"TLS__MODE": "mtls", "TLS__CERTIFICATE": "x", "TLS__KEY": "x"}, ["TLS__MODE=mtls", "TLS__CA empty"]),
    ({"TLS__MODE": "tls", "TLS__CERTIFICATE": "x"}, ["TLS__MODE=tls", "TLS__CERTIFICATE=x", "TLS__KEY=empty", "needs both"]),
    ({"TLS__CA": "x"}, ["TLS__MODE=off", "plaintext", "set the first to tls or mtls"]),
    ({"TLS__ALLOWED_CLIENTS": '["x"]'}, ["TLS__ALLOWED_CLIENTS", "TLS__MODE=off", "set the second to mtls"]),
    ({"TLS__ALLOWED_CLIENTS": "[]"}, ["TLS__ALLOWED_CLIENTS is empty", "none"]),
    ({"TLS__ALLOWED_CLIENTS": "{}"}, ["TLS__ALLOWED_CLIENTS is empty", "none"]),
    ({"TLS__ALLOWED_CLIENTS": '["x*"]'}, ["'x*' for '*'", "only at the end of a URI"]),
    ({"TLS__ALLOWED_CLIENTS": '["spiffe://a/*/b"]'}, ["'spiffe://a/*/b'", "only at the end of a URI"]),
    ({"TLS__ALLOWED_CLIENTS": '{"*": [" "]}'}, ["' ' for '*'", "no name"]),
    (
        {"TELEMETRY__OTLP_CA": "x", "TELEMETRY__OTLP_ENDPOINT": "http://x"},
        ["TELEMETRY__OTLP_CA", "TELEMETRY__OTLP_ENDPOINT=http://x", "https"],
    ),
    ({"TELEMETRY__OTLP_KEY": "x"}, ["TELEMETRY__OTLP_CERTIFICATE=empty", "TELEMETRY__OTLP_KEY=x", "both files or neither"]),
    ({"TELEMETRY__OTLP_CA": "/nowhere"}, ["TELEMETRY__OTLP_CA=/nowhere cannot be read"]),
    ({"TELEMETRY__OTLP_HEADERS": "hidden"}, ["TELEMETRY__OTLP_HEADERS cannot be read; write name=value"]),
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
        ({"SERVER__PORT": "many"}, "SERVER__PORT='many' is invalid: Input should be a valid integer"),
        ({"SERVER__PORT": "70000"}, "SERVER__PORT='70000' is invalid: Input should be less than or equal to 65535"),
        ({"SERVER__DRAIN__WAIT": "soon"}, "SERVER__DRAIN__WAIT='soon' is invalid: write a duration such as 30s"),
        ({"SERVER__PROT": "1"}, "SERVER__PROT is no setting"),
        ({"CLIENT__RATE": "0"}, "CLIENT__RATE='0' is invalid: Input should be greater than 0"),
    ],
)
def test_a_mistyped_value_is_one_sentence_with_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    """No traceback for what a user mistyped."""
    assert any(found.startswith(sentence) for found in mistakes(monkeypatch, **environment))


@pytest.mark.parametrize(
    "environment",
    [
        {"TELEMETRY__OTLP_HEADERS": "hidden"},
        {"DISCOVERY__ETCD__PASSWORD__X": "hidden"},
        {"DISCOVERY__ETCD": '"hidden"'},
        {"DISCOVERY": '["hidden"]'},
        {"DISCOVERY__ETCD": '{"password": ["hidden"], "x": 1}'},
    ],
)
def test_a_mistyped_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Nor is what was written in the place of the section that holds it."""
    found = mistakes(monkeypatch, **environment)
    assert found
    assert "hidden" not in " ".join(found)


FILES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "is missing": ({"key": None}, "TLS__KEY={0}/tls.key cannot be read: No such file or directory"),
    "is garbage": ({"certificate": b"x"}, "TLS__CERTIFICATE={0}/tls.crt holds no certificate in PEM"),
    "does not fit": ({"key": b"another"}, "TLS__KEY={0}/tls.key does not fit the certificate '{0}/tls.crt'"),
    "holds no authority": ({"ca": b""}, "TLS__CA={0}/ca.crt holds no certificate in PEM"),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, role: str, case: str) -> None:
    """By both commands, in one sentence that names the setting."""
    wrong, sentence = FILES[case]
    authority, names = Authority(), {"certificate": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    made = authority.issue(["x"])
    write(tmp_path, {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": authority.certificate})
    for name, content in wrong.items():
        path = tmp_path / names[name]
        path.unlink() if content is None else path.write_bytes(authority.issue(["y"]).key if content == b"another" else content)
    files = {f"TLS__{name.upper()}": f"{tmp_path}/{file}" for name, file in names.items()}
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.{role}"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "TLS__MODE": "mtls", **files},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    expected = f"settings: {sentence.format(tmp_path)}; see TLS__CERTIFICATE, TLS__KEY and TLS__CA\n"
    assert (done.returncode, done.stderr) == (2, expected)


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
