"""Settings from whatever anybody writes: values, or sentences and status 2; no traceback, neither then nor at the start."""

import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import assume, example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from greeter.client.__main__ import connection
from greeter.client.channel import channel_options
from greeter.defaults import PREFIX
from greeter.discovery import DiscoveryError
from greeter.server.options import Options, server_options
from greeter.settings import Client, Discovery, Drain, Server, Settings
from greeter.settings.command import load, print_settings
from greeter.settings.sources import leaves
from greeter.tls import TlsError

NAMES = [name for name, _, _ in leaves(Settings)]
SECTIONS = sorted({name.rpartition("__")[0] for name in NAMES})
LAST = sorted({name.rpartition("__")[2].lower() for name in NAMES})

good = [
    "0",
    "1",
    "2.5",
    "true",
    "false",
    "none",
    "30s",
    "500ms",
    "9999999999",
    "1e308",
    '["a:1"]',
    "{}",
    "INFO",
    "etcd:///a",
    "10.0.0.1",
]
parts = ["-1", "inf", "nan", "[", "]", "{", "}", '"', "'", ":", ",", "null", "9" * 30, "h", "ms", "\\", "$", "\n", "\udcff"]
texts = st.lists(st.sampled_from(parts + good), max_size=4).map("".join) | st.text(max_size=12)
values = (
    st.sampled_from(good)
    | st.integers().map(str)
    | st.builds("{}{}".format, st.floats(), st.sampled_from(["", "s", "h"]))
    | texts
)
objects = st.dictionaries(st.sampled_from(LAST), st.floats() | st.integers() | st.none() | texts, max_size=2).map(json.dumps)
names = st.sampled_from(NAMES) | st.sampled_from(SECTIONS) | st.builds("{}__{}".format, st.sampled_from(SECTIONS), texts)
lines = st.builds("{}{}{}".format, st.sampled_from(NAMES) | texts, st.sampled_from(["=", " = ", "='", '="', "=${", ""]), values)


def may_be_in_an_environment(name: str, value: str) -> bool:
    """What execve can pass on."""
    try:
        os.fsencode(name + value)
    except UnicodeEncodeError:
        return False
    return "\0" not in name + value and "=" not in name and name != ""


@contextlib.contextmanager
def surroundings(environment: dict[str, str], dotenv: bytes) -> Iterator[None]:
    """Of a command that is started with these variables, in a folder with such a file."""
    before, here = dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        try:
            if dotenv:
                Path(".env").write_bytes(dotenv)
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)


def loaded(said: io.StringIO) -> tuple[Settings | None, object]:
    """The settings, or the status with which a command would end, and what it would say."""
    try:
        with contextlib.redirect_stderr(said):
            return load(), None
    except SystemExit as ended:
        return None, ended.code


@how(deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), values, max_size=3) | st.dictionaries(names, texts | objects, max_size=3),
    st.just(b"")
    | st.lists(lines, max_size=3).map(lambda written: "\n".join(written).encode(errors="replace"))
    | st.binary(max_size=20),
)
@example({f"{PREFIX}SERVER__MAX_MESSAGE_BYTES": "99999999999999"}, b"")
@example({f"{PREFIX}SERVER__DRAIN": '{"wait": NaN}'}, b"")
@example({f"{PREFIX}SERVER__DRAIN": '{"wait": -1}'}, b"")
@example({f"{PREFIX}CLIENT__TIMEOUT": "9" * 400}, b"")
@example({f"{PREFIX}CLIENT__RATE": "inf"}, b"")
@example({f"{PREFIX}SERVER__PORT": ""}, b"GREETER__SERVER__HOST='")
@example({}, b"GREETER__SERVER__NAME=\xff")
def test_any_values_at_all_are_settings_or_sentences(environment: dict[str, str], dotenv: bytes) -> None:
    """From the environment and from `.env`; what is accepted can be printed, and can be made into gRPC's arguments."""
    said = io.StringIO()
    assume(all(may_be_in_an_environment(*variable) for variable in environment.items()))
    with surroundings(environment, dotenv):
        settings, status = loaded(said)
    if settings is None:
        assert status == 2
        assert "settings: " in said.getvalue()  # python-dotenv may have warned before
        assert "Traceback" not in said.getvalue()
        return
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")):
        print_settings(settings)
    for name, _, value in leaves(settings):
        assert not isinstance(value, float) or 0 <= value < math.inf, f"{name}={value}"
    for name, value in [*server_options(settings), *arguments_of_the_channel(settings)]:
        assert isinstance(value, str) or -(2**31) <= value < 2**31, f"{name}={value}"


def arguments_of_the_channel(settings: Settings) -> Options:
    """None for a target that cannot be or files that are not there, of which the command says so."""
    try:
        made = connection(settings)
        return list((channel_options(made["target"], made["outlier_detection"]) | dict(made["options"])).items())
    except (DiscoveryError, TlsError):
        return []


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))
AWKWARD = st.lists(st.sampled_from([*"\\'\"#$ \n\t=`!", "${HOME}", "$(x)", "a", "é", "\x85"]), max_size=6).map("".join)
TEXTS = st.one_of(TEXT, AWKWARD).filter(lambda text: text != "none" and not text.endswith("\\"))
"""python-dotenv cannot read a quoted value that ends in a backslash, and reads a carriage return as the end of a line."""


@how(deadline=None)
@given(
    name=TEXTS,
    zone=TEXTS,
    names=st.lists(TEXTS, min_size=1).map(tuple),
    wait=st.floats(0, 1e9),
    rate=st.floats(0.001, 100_000),
    options=st.dictionaries(st.just("grpc.primary_user_agent"), TEXTS),
)
@example(name="a #b", zone=" 'a\" ", names=("$a", "\n"), wait=0.1, rate=1e-3, options={})
def test_what_is_printed_is_a_dotenv_file_with_the_same_values(
    name: str, zone: str, names: tuple[str, ...], wait: float, rate: float, options: dict[str, str]
) -> None:
    """Whatever characters they hold, and to the last digit."""
    settings = Settings(
        server=Server(name=name, drain=Drain(wait=wait)),
        client=Client(rate=rate),
        discovery=Discovery(zone=zone, dns_servers=names),
        grpc_options=options,
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_settings(settings)
    with surroundings({}, printed.getvalue().encode()):
        assert Settings() == settings
