"""The pair over TLS: who gets in and who does not, and certificates that change under load."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.x509 import DNSName

from greeter import discovery
from greeter.client.api import GreeterClient
from greeter.client.channel import Retry
from greeter.defaults import SERVER_NAME

from .authority import Authority, Name, Secret
from .calls import NOT_SERVING, SERVING, Load, greet, health, inspect, reflect, watch, watch_health
from .processes import DEADLINE, load_generator, refused, servers
from .project import PROJECT

SPIFFE = "spiffe://cluster.local/ns/shop/sa/client"


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server_files(tmp_path: Path, authority: Authority) -> Secret:
    return Secret(tmp_path / "server", SERVER_NAME).issue(authority)


@pytest.fixture
def client_files(tmp_path: Path, authority: Authority) -> Secret:
    return Secret(tmp_path / "client", "client").issue(authority)


def followed(secret: Secret) -> discovery.CertificateFiles:
    """A typed client's."""
    folder = secret.folder
    return discovery.CertificateFiles(
        ca=f"{folder}/ca.crt", certificate=f"{folder}/tls.crt", key=f"{folder}/tls.key", refresh=0.1
    )


def channel(address: str, certificate: Secret) -> grpc.Channel:
    """One connection, by gRPC's own means."""
    pem = {name: (certificate.folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")}
    credentials = grpc.ssl_channel_credentials(pem["ca.crt"], pem["tls.key"], pem["tls.crt"])
    return grpc.secure_channel(address, credentials, [("grpc.default_authority", SERVER_NAME)])


def first_greeting(opened: grpc.Channel) -> object:
    return next(watch(opened, count=1))


@pytest.mark.parametrize("target", ["static:///{}", "dns:///{}", "passthrough:///{}", "{}"])
async def test_both_sides_show_certificates_on_every_kind_of_target(
    server_files: Secret, client_files: Secret, target: str
) -> None:
    """The name that counts is the Service's, though all of these name an address."""
    with servers("a", **server_files.settings()) as running:
        async with GreeterClient(target.format(running["a"][1]), tls=followed(client_files)) as client:
            assert (await client.greet("x", timeout=DEADLINE)).message == "Hello, x!"


REFUSALS = {
    "no certificate": "it requires a certificate from its clients; GREETER__TLS__CERTIFICATE is not set",
    "wrong authority of the client": "does not know the authority|unable to get local issuer",
    "expired client": "certificate has expired",
    "wrong authority of the server": "wrong authority: the server's certificate does not come from GREETER__TLS__CA=",
    "expired server": "the server's certificate has expired",
    "wrong name": f"wrong name: the server's certificate does not carry GREETER__TLS__SERVER_NAME={SERVER_NAME}",
    "plaintext server": "the server speaks plaintext, this client TLS",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_does_not_fit_is_refused_and_the_clients_log_says_why(
    server_files: Secret, client_files: Secret, authority: Authority, case: str
) -> None:
    """gRPC's own words are behind it, and not one call is answered."""
    mode, on_server = "mtls", server_files.settings()
    if case == "no certificate":
        mode = "tls"
    elif case == "wrong authority of the client":
        client_files.issue(Authority(), authority)
    elif case == "expired client":
        client_files.issue(authority, ended=True)
    elif case == "wrong authority of the server":
        client_files.issue(authority, Authority())
    elif case == "expired server":
        server_files.issue(authority, ended=True)
    elif case == "wrong name":
        server_files.issue(authority, names=("other",))
    else:
        on_server = {}
    with (
        servers("a", **on_server) as running,
        load_generator(running["a"][1], GRPC_VERBOSITY="NONE", **client_files.settings(mode)) as process,
    ):
        process.wait_for(f"calls fail: UNAVAILABLE: .*({REFUSALS[case]})")
        process.wait_for("served by none")
        assert not any("served by a" in line for line in process.lines)


def test_a_client_in_plaintext_gets_nothing_from_a_server_with_tls(server_files: Secret) -> None:
    """Nor does the server serve it anything."""
    with servers("a", **server_files.settings()) as running, grpc.insecure_channel(running["a"][1]) as opened:
        with pytest.raises(grpc.RpcError) as error:
            greet(opened)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_clients_are_allowed_by_method_and_a_denied_call_is_one_line(
    tmp_path: Path, server_files: Secret, authority: Authority
) -> None:
    """By DNS name or SPIFFE URI, exact or by prefix; health stays open; what no rule names is closed."""
    allowed = {
        "greeter.v1.GreeterService/Greet": [SPIFFE, "other"],
        "greeter.v1.GreeterService/*": ["spiffe://cluster.local/ns/admin/*"],
    }
    people = {"spiffe": (SPIFFE,), "dns": ("other",), "admin": ("spiffe://cluster.local/ns/admin/sa/x",), "stranger": ("x", "y")}
    may = {"spiffe": ("Greet",), "dns": ("Greet",), "admin": ("WatchGreetings",), "stranger": ()}
    environment = {"TLS__ALLOWED_CLIENTS": json.dumps(allowed), "SERVER__REFLECTION": "true"}
    with servers("a", **server_files.settings(), **environment) as running:
        process, address = running["a"]
        for person, names in people.items():
            certificate = Secret(tmp_path / person).issue(authority, names=names)
            with channel(address, certificate) as opened:
                calls: dict[str, Callable[[grpc.Channel], object]] = {
                    "Greet": greet,
                    "WatchGreetings": first_greeting,
                    "ServerReflectionInfo": reflect,
                    "GetServers": inspect,
                }
                for method, call in calls.items():
                    if method in may[person]:
                        call(opened)
                        continue
                    with pytest.raises(grpc.RpcError) as error:
                        call(opened)
                    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, (person, method)
                    line = process.wait_for(rf"calls rejected within a second: .*{names[0]}.* may not call \S+/{method}")
                    assert [one for one in process.lines if one == line.string] == [line.string]
                assert health(opened) == SERVING


ALLOWED = [SPIFFE, "spiffe://cluster.local/ns/prod/*", "client"]
INTRUDERS: dict[str, Name] = {
    "a URI that only begins like a rule": "spiffe://cluster.local/ns/prod-evil/sa/x",
    "a URI without what follows the rule": "spiffe://cluster.local/ns/prod",
    "a longer DNS name": "client.evil.example",
    "an e-mail address": "client@example.com",
    "a DNS name that reads like an allowed URI": DNSName(SPIFFE),
    "a DNS name that begins like an allowed URI": DNSName("spiffe://cluster.local/ns/prod/sa/x"),
}


def test_a_name_counts_as_what_it_is(tmp_path: Path, server_files: Secret, authority: Authority) -> None:
    """A name opens only what a rule for names of its type opens."""
    with servers("a", **server_files.settings(), TLS__ALLOWED_CLIENTS=json.dumps(ALLOWED)) as running:
        for number, (kind, name) in enumerate(INTRUDERS.items()):
            with channel(running["a"][1], Secret(tmp_path / str(number), name).issue(authority)) as opened:
                with pytest.raises(grpc.RpcError) as error:
                    greet(opened)
                assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, kind


def test_a_rule_for_a_method_that_does_not_exist_is_refused_at_the_start(server_files: Secret) -> None:
    """It would protect nothing."""
    lines = refused("server", **server_files.settings(), TLS__ALLOWED_CLIENTS='{"greeter.v1.GreeterService/Gret": ["x"]}')
    assert lines == [
        "settings: GREETER__TLS__ALLOWED_CLIENTS: 'greeter.v1.GreeterService/Gret' is not a method; "
        "write package.Service/Method, package.Service/* or *"
    ]


def test_a_certificate_with_a_spiffe_uri_beside_the_dns_name_serves(
    server_files: Secret, client_files: Secret, authority: Authority
) -> None:
    """As SPIFFE's agents and cert-manager issue them; the DNS name is what clients check."""
    server_files.issue(authority, names=(SERVER_NAME, "spiffe://cluster.local/ns/shop/sa/server"))
    with servers("a", **server_files.settings()) as running, channel(running["a"][1], client_files) as opened:
        assert greet(opened) == "a"


@pytest.mark.parametrize("mode", ["off", "tls", "mtls"])
def test_what_tells_of_the_inside_is_off_under_mtls_unless_it_is_asked_for(
    server_files: Secret, client_files: Secret, mode: str
) -> None:
    """Reflection and channelz."""
    tls = {} if mode == "off" else server_files.settings(mode)
    for asked in (False, True):
        with servers("a", **tls, **({"SERVER__REFLECTION": "true"} if asked else {})) as running:
            address = running["a"][1]
            with grpc.insecure_channel(address) if mode == "off" else channel(address, client_files) as opened:
                for call in (reflect, inspect):
                    if mode != "mtls" or asked:
                        call(opened)
                        continue
                    with pytest.raises(grpc.RpcError) as error:
                        call(opened)
                    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_has_a_port_in_plaintext_where_it_is_asked_for_and_drains_with_the_server(server_files: Secret) -> None:
    """For the kubelet, which knows no TLS; nothing else is offered there."""
    wait = {"SERVER__DRAIN__WAIT": "1s", "SERVER__DRAIN__GRACE": "1s"}
    with servers("a", **server_files.settings(), SERVER__HEALTH_PORT="0", **wait) as running:
        process, _ = running["a"]
        port = process.wait_for(r"health in plaintext on port (\d+)")[1]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            statuses = watch_health(opened)
            assert next(statuses) == SERVING
            with pytest.raises(grpc.RpcError) as error:
                greet(opened)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
            process.send(signal.SIGTERM)
            assert next(statuses) == NOT_SERVING
        assert process.ended() == 0


def test_the_client_is_ready_again_and_calls_again_after_its_expired_certificate_was_renewed(
    server_files: Secret, client_files: Secret, authority: Authority
) -> None:
    """Started too early, or renewed too late: no restart is needed."""
    client_files.issue(authority, ended=True)
    with (
        servers("a", **server_files.settings()) as running,
        load_generator(running["a"][1], GRPC_VERBOSITY="NONE", **client_files.settings()) as process,
    ):
        process.wait_for("certificate has expired")
        client_files.issue(authority)
        process.wait_for("served by a=")
        process.wait_for("ready: calls go to")


def test_garbage_in_the_files_is_told_once_and_changes_nothing(
    server_files: Secret, client_files: Secret, authority: Authority
) -> None:
    """Neither for connections that stand nor for new ones."""
    with servers("a", **server_files.settings()) as running:
        process, address = running["a"]
        for name, content in (("tls.crt", b"garbage"), ("tls.key", Authority().issue(["x"])[1])):
            (server_files.folder / name).write_bytes(content)
            process.wait_for(rf"CertificateFiles\(\w+='{server_files.folder}/{name}'\).*the last good certificate stays in use")
            with channel(address, client_files) as opened:
                assert greet(opened) == "a"
            server_files.issue(authority)
            process.wait_for("new TLS files")
        told = [line for line in process.lines if "stays in use" in line]
        assert len(told) == len(set(told))


def test_keys_and_passwords_are_nowhere_to_be_seen(tmp_path: Path, server_files: Secret, client_files: Secret) -> None:
    """Not in logs at their loudest, not in the settings as they are shown, not in metrics."""
    secrets = {"DISCOVERY__ETCD__USER": "u", "DISCOVERY__ETCD__PASSWORD": "pass-word-1"}
    collector = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "token=pass-word-2",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    loud = {"LOG__LEVEL": "DEBUG", **secrets, **collector}
    key = [line for line in (server_files.folder / "tls.key").read_text().splitlines() if "-----" not in line]
    with servers("a", **server_files.settings(), **loud) as running:
        process, address = running["a"]
        with load_generator(address, GRPC_VERBOSITY="NONE", **client_files.settings(), **loud) as calling:
            calling.wait_for("served by a=")
            (server_files.folder / "tls.crt").write_text("garbage")
            process.wait_for("stays in use")
            process.send(signal.SIGTERM)
            said = "\n".join([*process.lines, *calling.lines])
    for secret in ("pass-word-1", "pass-word-2", *key):
        assert secret not in said


async def test_certificates_change_under_load_and_no_call_is_lost(
    server_files: Secret, client_files: Secret, authority: Authority
) -> None:
    """Three servers, the authority replaced at both ends, no retry."""
    with servers("a", "b", "c", **server_files.settings()) as running:
        target = "static:///" + ",".join(address for _, address in running.values())
        files = followed(client_files)
        async with GreeterClient(target, tls=files, retry=Retry(attempts=1), timeout=DEADLINE) as client, Load(client) as load:
            await load.until(lambda results: len({result.server for result in results}) == 3)
            new = Authority()
            for certificates in (server_files, client_files):
                certificates.issue(new)
            for process, _ in running.values():
                await asyncio.to_thread(process.wait_for, "new TLS files")
            for name, (_, address) in running.items():  # a new connection stands only on the new files at both ends
                with channel(address, client_files) as opened:
                    assert await asyncio.to_thread(greet, opened) == name
            after = len(load.results)
            await load.until(lambda results: len(results) >= after + 200)
    assert {result.code for result in load.results} == {"OK"}


def test_what_make_certs_prints_into_a_dotenv_file_starts_the_pair(tmp_path: Path) -> None:
    """Both sides from one file, in the folder that it lies in."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT.folder / "src")}
    command = [str(PROJECT.python), "-m", f"{PROJECT.package}.discovery.testing.certificates", PROJECT.slug, PROJECT.prefix]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (tmp_path / ".env").write_text("\n".join(line for line in done.stdout.splitlines() if line.startswith(PROJECT.prefix)))
    with servers("a") as running, load_generator(running["a"][1]) as client:
        client.wait_for("served by a=")
        with grpc.insecure_channel(running["a"][1]) as plaintext, pytest.raises(grpc.RpcError):
            greet(plaintext)
