"""Settings: checked as a whole, refused in sentences, shown without secrets. Where they come from is tested by the project itself."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from greeter.client.__main__ import connection
from greeter.client.api import GreeterClient
from greeter.client.channel import Retry, channel_options
from greeter.defaults import PREFIX
from greeter.discovery import Config
from greeter.settings import Settings
from greeter.settings.command import load
from greeter.settings.sources import leaves
from greeter.settings.types import seconds, text
from greeter.settings.validation import warnings

from .authority import Authority, Secret
from .processes import refused, servers
from .project import PROJECT


def mistakes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **environment: str) -> Sequence[str]:
    """The sentences that these settings lead to, without the prefix."""
    for name, value in environment.items():
        monkeypatch.setenv(PREFIX + name, value)
    with contextlib.suppress(SystemExit):
        load()
    return capsys.readouterr().err.replace(PREFIX, "").splitlines()


@pytest.mark.parametrize(
    ("written", "meant"), [("30s", 30), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1.5", 1.5), ("7", 7), (" 3 s ", 3)]
)
def test_durations_are_read_as_people_write_them(written: str, meant: float) -> None:
    """And shown so that they can be read again."""
    assert seconds(written) == meant
    assert seconds(text(meant)) == meant


KEEPALIVE = {"SERVER__KEEPALIVE__MIN_PING_INTERVAL": "60s", "CLIENT__KEEPALIVE__TIME": "30s"}
GRACE = {"SERVER__MAX_CONNECTION_AGE_GRACE": "30s", "CLIENT__TIMEOUT": "31s"}
MIB = 2**20


def options(**options: object) -> dict[str, str]:
    """The setting GRPC_OPTIONS, with names as they are in gRPC but for the dots."""
    return {"GRPC_OPTIONS": json.dumps({name.replace("__", "."): value for name, value in options.items()})}


def service_config(**config: object) -> dict[str, str]:
    """A service config in GRPC_OPTIONS."""
    return options(grpc__service_config=json.dumps(config))


CONTRADICTIONS = [
    (KEEPALIVE, ["SERVER__KEEPALIVE__MIN_PING_INTERVAL=60s", "CLIENT__KEEPALIVE__TIME=30s", "at least 120s"]),
    (GRACE, ["SERVER__MAX_CONNECTION_AGE_GRACE=30s", "CLIENT__TIMEOUT=31s", "raise it"]),
    (
        {"SERVER__DRAIN__WAIT": "21s", "SERVER__DRAIN__TERMINATION_GRACE": "45s"},
        ["SERVER__DRAIN__WAIT=21s", "SERVER__DRAIN__GRACE=20s", "SERVER__DRAIN__TERMINATION_GRACE=45s", "46s"],
    ),
    (
        {"SERVER__MEMORY_LIMIT": str(200 * MIB)},
        [
            f"SERVER__MAX_BYTES_IN_FLIGHT={16 * MIB}",
            f"SERVER__MEMORY_LIMIT={200 * MIB}",
            f"raise the container's limit to {240 * MIB}",
        ],
    ),
    (
        {"SERVER__MAX_MESSAGE_BYTES": str(32 * MIB)},
        [f"SERVER__MAX_BYTES_IN_FLIGHT={16 * MIB}", f"SERVER__MAX_MESSAGE_BYTES={32 * MIB}", "raise the first"],
    ),
    ({"REGISTRATION__TARGET": "etcd:///a"}, ["REGISTRATION__TARGET=etcd:///a", "REGISTRATION__ADDRESS empty", "status.podIP"]),
    ({"TLS__MODE": "mtls"}, ["TLS__MODE=mtls", "TLS__CERTIFICATE and TLS__KEY and TLS__CA empty", "/etc/tls/ca.crt"]),
    ({"TLS__MODE": "mtls", "TLS__CERTIFICATE": "x", "TLS__KEY": "x"}, ["TLS__MODE=mtls", "TLS__CA empty"]),
    ({"TLS__CA": "x"}, ["TLS__MODE=off", "plaintext", "set the first to tls or mtls"]),
    ({"TLS__ALLOWED_CLIENTS": '["x"]'}, ["TLS__ALLOWED_CLIENTS", "TLS__MODE=off", "set the second to mtls"]),
    ({"TLS__ALLOWED_CLIENTS": "[]"}, ["TLS__ALLOWED_CLIENTS='[]' is invalid", "at least 1"]),
    ({"TLS__ALLOWED_CLIENTS": "{}"}, ["TLS__ALLOWED_CLIENTS='{}' is invalid", "at least 1"]),
    ({"TLS__ALLOWED_CLIENTS": '["x*"]'}, ["TLS__ALLOWED_CLIENTS=", "'x*'", "only at the end of a URI"]),
    ({"TLS__ALLOWED_CLIENTS": '["spiffe://a/*/b"]'}, ["'spiffe://a/*/b'", "only at the end of a URI"]),
    ({"TLS__ALLOWED_CLIENTS": '{"*": [" "]}'}, ["' '", "no DNS name or URI"]),
    (options(grpc__max_connection_idle=1), ["grpc.max_connection_idle,", "did you mean grpc.max_connection_idle_ms?"]),
    (options(idle=1), ["GRPC_OPTIONS has idle", "does not; remove it"]),
    (service_config(retryThrottling={"maxTokens": 10, "tokenRatio": 1}), ["tokenRatio=1", "write 1.0"]),
    (service_config(methodConfig=[{"name": [{}], "timeout": "1s"}]), ["timeout=1s", "set the calls' own deadline"]),
    (options(grpc__service_config="{"), ["GRPC_OPTIONS: grpc.service_config cannot be read", "in JSON"]),
]


@pytest.mark.parametrize(("environment", "words"), CONTRADICTIONS)
def test_what_cannot_work_is_refused_in_a_sentence_that_names_both_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], words: list[str]
) -> None:
    """gRPC would say nothing, and lose calls later."""
    found = mistakes(monkeypatch, capsys, **environment)
    assert any(all(word in sentence for word in words) for sentence in found), found


def test_the_grace_of_connections_without_a_maximum_age_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No connection is ended."""
    given = {**GRACE, "CLIENT__STREAM_TIMEOUT": "1h", "SERVER__MAX_CONNECTION_AGE": "none"}
    assert mistakes(monkeypatch, capsys, **given) == []
    assert list(warnings(load())) == []


def test_the_defaults_do_not_contradict_each_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The counterpart of the test above."""
    assert mistakes(monkeypatch, capsys) == []


def test_the_defaults_of_the_typed_client_are_those_of_the_settings() -> None:
    """Whoever imports the client gets what the load generator has shown to work."""
    arguments = connection(Settings())
    assert arguments["retry"] == Retry()
    assert dict(arguments["options"]).items() <= channel_options(arguments["target"], False).items()
    assert arguments["config"] == Config()
    defaults = GreeterClient.__init__.__kwdefaults__
    names = ("tls", "server_name", "timeout", "stream_timeout", "outlier_detection")
    assert {name: arguments[name] for name in names} == {name: defaults[name] for name in names}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SERVER__PORT": "70000"}, "SERVER__PORT='70000' is invalid: Input should be less than or equal to 65535"),
        ({"CLIENT__RATE": "0"}, "CLIENT__RATE='0' is invalid: Input should be greater than 0"),
        ({"SERVER__MAX_MESSAGE_BYTES": "9999999999"}, "SERVER__MAX_MESSAGE_BYTES='9999999999' is invalid: Input should be less"),
        ({"REGISTRATION__WEIGHT": "0"}, "REGISTRATION__WEIGHT='0' is invalid: Input should be greater"),
        ({"DISCOVERY__ETCD__ENDPOINTS": "[]"}, "DISCOVERY__ETCD__ENDPOINTS='[]' is invalid"),
        ({"SERVER": "x"}, "SERVER in the environment is not a setting"),
        ({"CLIENT__NAME": "x"}, "CLIENT__NAME in the environment is not a setting"),
    ],
)
def test_a_mistyped_value_is_one_sentence_with_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], sentence: str
) -> None:
    """No traceback for what a user mistyped."""
    (found,) = mistakes(monkeypatch, capsys, **environment)
    assert found.startswith(f"settings: {sentence}")


@pytest.mark.parametrize(
    "environment",
    [
        {"DISCOVERY__ETCD__PASSWORD__X": "hidden"},
        {"DISCOVERY__ETCD": '"hidden"'},
        {"DISCOVERY": '["hidden"]'},
        {"DISCOVERY__ETCD": '{"password": ["hidden"], "x": 1}'},
    ],
)
def test_a_mistyped_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    """Nor is what was written in the place of the section that holds it."""
    found = mistakes(monkeypatch, capsys, **environment)
    assert found
    assert "hidden" not in " ".join(found)


@pytest.mark.parametrize("where", ["environment", "dotenv", "folder"])
def test_none_means_none_wherever_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    """As --print-settings shows it."""
    name = f"{PREFIX}SERVER__MAX_CONNECTION_AGE"
    if where == "environment":
        monkeypatch.setenv(name, "none")
    elif where == "dotenv":
        (tmp_path / ".env").write_text(f"{name}=none\n")
    else:
        monkeypatch.setenv(f"{PREFIX}SETTINGS_DIR", str(tmp_path))
        (tmp_path / name.lower()).write_text("none\n")
    assert load().server.max_connection_age is None


FILES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "is missing": ({"tls.key": None}, "TLS__KEY={0}/tls.key cannot be read: No such file or directory"),
    "is garbage": ({"tls.crt": b"x"}, "TLS__CERTIFICATE={0}/tls.crt holds no certificate in PEM"),
    "does not fit": ({"tls.key": Authority().issue(["y"])[1]}, "TLS__KEY={0}/tls.key does not fit the certificate '{0}/tls.crt'"),
    "holds no authority": ({"ca.crt": b""}, "TLS__CA={0}/ca.crt holds no certificate in PEM"),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, role: str, case: str) -> None:
    """By both commands, in one sentence that names the setting."""
    wrong, sentence = FILES[case]
    secret = Secret(tmp_path / "tls", "x").issue(Authority())
    for name, content in wrong.items():
        (secret.folder / name).unlink() if content is None else (secret.folder / name).write_bytes(content)
    lines = refused(role, **secret.settings())
    names = "GREETER__TLS__CERTIFICATE, GREETER__TLS__KEY and GREETER__TLS__CA"
    assert lines == [f"settings: GREETER__{sentence.format(secret.folder)}; see {names}"]


@pytest.mark.parametrize("role", ["server", "client"])
def test_mistakes_end_the_commands_with_status_2_and_settings_can_be_shown(role: str) -> None:
    """As a user sees it; secrets are stars."""

    def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = PROJECT.environment(settings)
        return subprocess.run(PROJECT.command(role, *arguments), env=environment, capture_output=True, text=True, timeout=60)

    wrong = command(CLIENT__RETRY__ATTEMPTS="9")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("settings: GREETER__CLIENT__RETRY__ATTEMPTS='9'")
    assert "Traceback" not in wrong.stderr
    shown = command("--print-settings", SERVER__DRAIN__WAIT="1500ms", DISCOVERY__ETCD__PASSWORD="hidden")
    assert shown.returncode == 0
    assert "GREETER__SERVER__DRAIN__WAIT=1.5s\n" in shown.stdout
    assert "# GREETER__DISCOVERY__ETCD__PASSWORD=***\n" in shown.stdout
    assert "hidden" not in shown.stdout


OTHERS = {"LOG": "debug", "SERVER": "x", "TLS": "1", "DISCOVERY": "dns", "CLIENT__TARGET": "nowhere:///", "SERVER__PORT": "many"}


@pytest.mark.parametrize("role", ["server", "client"])
def test_names_without_the_prefix_mean_nothing(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets LOG=debug means another program."""
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    shown = subprocess.run(
        PROJECT.command(role, "--print-settings"), env=PROJECT.environment({}), capture_output=True, text=True, timeout=60
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "GREETER__SERVER__PORT=50051\n" in shown.stdout


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_settings_folder_or_dotenv_file_that_cannot_be_read_is_named(role: str, tmp_path: Path) -> None:
    """Going on with the defaults would hide it."""
    assert refused(role, SETTINGS_DIR="/nonexistent") == [
        "settings: GREETER__SETTINGS_DIR=/nonexistent cannot be read: No such file or directory"
    ]
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "GREETER__SERVER__NAME").write_bytes(bytes(range(256)))
    assert refused(role, SETTINGS_DIR=str(folder)) == [
        f"settings: the file {folder}/GREETER__SERVER__NAME cannot be read: it is not UTF-8 text"
    ]
    Path(".env").write_text("GREETER__SERVER__NAME=Andr\xe9", encoding="latin-1")
    assert refused(role) == ["settings: the file .env cannot be read: it is not UTF-8 text"]


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_file_for_etcd_that_cannot_be_used_is_named_with_its_setting(role: str, tmp_path: Path) -> None:
    """Not by the library's argument, which the user has not written."""
    given = {"CLIENT__TARGET": "etcd:///a", "REGISTRATION__TARGET": "etcd:///a", "REGISTRATION__ADDRESS": "10.1.2.3"}
    for path, reason in (("/missing/x", "No such file or directory"), (str(tmp_path), "Is a directory")):
        assert refused(role, **given, DISCOVERY__ETCD__CA=path) == [
            f"settings: GREETER__DISCOVERY__ETCD__CA='{path}' cannot be read: {reason}"
        ]


def a_folder_as_a_setting(folder: Path) -> None:
    (folder / ".env").write_text("GREETER__SETTINGS_DIR=.")
    (folder / "greeter__log__level").mkdir()


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder as .env": (lambda folder: (folder / ".env").mkdir(), "the file .env cannot be read: Is a directory"),
    "a link to nothing": (
        lambda folder: (folder / ".env").symlink_to("x"),
        "the file .env cannot be read: No such file or directory",
    ),
    "zeros": (lambda folder: (folder / ".env").write_bytes(b"A=\0"), "the file .env cannot be read: it is not text"),
    "an open quote": (
        lambda folder: (folder / ".env").write_text("A='b\nGREETER__SERVER__NAME='c\n"),
        "the file .env cannot be read: line 1 is not NAME=value",
    ),
    "a value": (
        lambda folder: (folder / ".env").write_text("GREETER__LOG__LEVEL=LOUD\n"),
        "GREETER__LOG__LEVEL='LOUD' in .env is invalid: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
    ),
    "a folder in the folder": (
        a_folder_as_a_setting,
        "the file greeter__log__level cannot be read: Is a directory",
    ),
    "a value in the folder": (
        lambda folder: [
            (folder / ".env").write_text("GREETER__SETTINGS_DIR=."),
            (folder / "greeter__log__level").write_text("LOUD"),
        ],
        "GREETER__LOG__LEVEL='LOUD' in greeter__log__level is invalid: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_wrong_in_a_file_names_the_file(case: str, tmp_path: Path) -> None:
    """One sentence, no traceback, and no start without the setting."""
    prepare, sentence = UNREADABLE[case]
    prepare(tmp_path)
    assert refused("server") == [f"settings: {sentence}"]


CALLED = {
    "": "static:///127.0.0.1:50051",
    "dotenv": "static:///127.0.0.1:2",
    "environment": "static:///127.0.0.1:3",
    "command line": "static:///127.0.0.1:4",
}


@pytest.mark.parametrize("given", CALLED)
def test_make_run_client_calls_what_the_dotenv_file_names(given: str) -> None:
    """The environment and TARGET= go before it, and the servers of `make run-server` come last."""
    target, dotenv = CALLED[given], PROJECT.folder / ".env"
    if given:
        dotenv.write_text(f"# {PREFIX}CLIENT__TARGET=static:///127.0.0.1:1\n{PREFIX}CLIENT__TARGET={CALLED['dotenv']}\n")
    variables = {"TARGET": target} if given == "command line" else {}
    settings = {"CLIENT__HEALTH_PORT": "0", **({"CLIENT__TARGET": CALLED["environment"]} if given == "environment" else {})}
    try:
        with subprocess.Popen(
            PROJECT.make_command("run-client", **variables), env=PROJECT.make_environment() | PROJECT.prefixed(settings),
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        ) as running:  # fmt: skip
            assert running.stdout is not None
            said = next((line for line in running.stdout if "calling" in line), "")
            os.killpg(running.pid, signal.SIGTERM)
            running.stdout.read()
        assert f"calling {target} at" in said
    finally:
        dotenv.unlink(missing_ok=True)


WARNINGS = [
    ({"SERVER__KEEPALIVE__MIN_PING_INTERVAL": "60s"}, ["CLIENT__KEEPALIVE__TIME=30s", "at least 120s"]),
    ({"CLIENT__KEEPALIVE__TIME": "15s"}, ["CLIENT__KEEPALIVE__TIME=15s", "SERVER__KEEPALIVE__MIN_PING_INTERVAL=10s"]),
    ({"CLIENT__TIMEOUT": "31s"}, ["CLIENT__TIMEOUT=31s", "SERVER__MAX_CONNECTION_AGE_GRACE=30s"]),
    (
        {"CLIENT__STREAM_TIMEOUT": "1h", "SERVER__MAX_CONNECTION_AGE": "3s", "SERVER__MAX_CONNECTION_AGE_GRACE": "2s"},
        ["CLIENT__STREAM_TIMEOUT=3600s", "SERVER__MAX_CONNECTION_AGE", "after 5s"],
    ),
]


@pytest.mark.parametrize(("environment", "words"), WARNINGS)
def test_what_only_the_other_side_can_know_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], words: list[str]
) -> None:
    """The other side's default is not what it has; a warning says what it must have."""
    assert mistakes(monkeypatch, capsys, **environment) == []
    (found,) = warnings(load())
    assert all(word in found for word in words), found


def test_a_server_starts_with_a_warning() -> None:
    """In its log, with the prefix of the settings."""
    with servers("a", SERVER__KEEPALIVE__MIN_PING_INTERVAL="60s", LOG__FORMAT="console") as running:
        running["a"][0].wait_for(
            r"WARNING settings: GREETER__SERVER__KEEPALIVE__MIN_PING_INTERVAL=60s .* GREETER__CLIENT__KEEPALIVE__TIME=30s"
        )


def test_there_are_at_most_50_settings_besides_the_owners() -> None:
    """Each is one that somebody must decide; gRPC's other options are in GRPC_OPTIONS."""
    assert len([name for name, _, _ in leaves(Settings) if not name.startswith(f"{PREFIX}SERVICE__")]) <= 50


def test_every_setting_is_described() -> None:
    """For the page of settings, which is made of these."""
    assert [name for name, field, _ in leaves(Settings) if not field.description] == []
