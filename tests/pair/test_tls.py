"""The pair over TLS: who gets in and who does not, and certificates that change under load."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.certificates import Authority, write
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

from {{ cookiecutter.package_name }}.client.api import GreeterClient
from {{ cookiecutter.package_name }}.client.load_generator import Loop, Result
from {{ cookiecutter.package_name }}.defaults import SERVER_NAME
from {{ cookiecutter.package_name }}.settings import Client, Settings, Tls

from .processes import DEADLINE, Process, servers

SPIFFE = "spiffe://cluster.local/ns/shop/sa/client"


class Certificate:
    """Three files in the layout of a mounted Secret, replaced by rename."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir()
        self.folder = folder
        self._names = names

    def issue(self, authority: Authority, *trusted: Authority, ended: bool = False, names: tuple[str, ...] = ()) -> "Certificate":
        """A new certificate of `authority`; those of `trusted`, or else of `authority`, are the ones to believe."""
        issued = authority.issue(names or self._names, timedelta(days=-1 if ended else 1))
        believed = b"".join(each.certificate for each in trusted or (authority,))
        write(self.folder, {"ca.crt": believed, "tls.key": issued.key, "tls.crt": issued.certificate})
        return self

    def settings(self, mode: str = "mtls") -> dict[str, str]:
        """The section tls."""
        return {
            "mode": mode,
            "certificate": f"{self.folder}/tls.crt",
            "key": f"{self.folder}/tls.key",
            "ca": f"{self.folder}/ca.crt",
            "refresh": "100ms",
        }

    def environment(self, mode: str = "mtls") -> dict[str, str]:
        """The same as variables."""
        return {f"TLS__{name.upper()}": value for name, value in self.settings(mode).items()}


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server_files(tmp_path: Path, authority: Authority) -> Certificate:
    return Certificate(tmp_path / "server", SERVER_NAME).issue(authority)


@pytest.fixture
def client_files(tmp_path: Path, authority: Authority) -> Certificate:
    return Certificate(tmp_path / "client", "client").issue(authority)


def settings(target: str, tls: dict[str, str], **client: object) -> Settings:
    return Settings(client=Client.model_validate({"target": target, **client}), tls=Tls.model_validate(tls))


def channel(address: str, certificate: Certificate) -> grpc.Channel:
    """One connection, by gRPC's own means."""
    pem = {name: (certificate.folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")}
    credentials = grpc.ssl_channel_credentials(pem["ca.crt"], pem["tls.key"], pem["tls.crt"])
    return grpc.secure_channel(address, credentials, [("grpc.default_authority", SERVER_NAME)])


def greet(opened: grpc.Channel) -> str:
    return str(greeter_pb2_grpc.GreeterServiceStub(opened).Greet(greeter_pb2.GreetRequest(), timeout=DEADLINE).served_by)


def watch(opened: grpc.Channel) -> object:
    request = greeter_pb2.WatchGreetingsRequest(count=1)
    return next(greeter_pb2_grpc.GreeterServiceStub(opened).WatchGreetings(request, timeout=DEADLINE))


def reflect(opened: grpc.Channel) -> object:
    ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    return next(reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo(ask, timeout=DEADLINE))


def look_inside(opened: grpc.Channel) -> object:
    return channelz_pb2_grpc.ChannelzStub(opened).GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE)


@contextmanager
def client(address: str, **environment: str) -> Iterator[Process]:
    """The client's service, calling one server."""
    process = Process(
        "client", CLIENT__TARGET=f"static:///{address}", CLIENT__RATE="20", CLIENT__HEALTH_PORT="0", CLIENT__HEALTH_HOST="127.0.0.1",
        GRPC_VERBOSITY="NONE", **environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.close()


@pytest.mark.parametrize("target", ["static:///{}", "dns:///{}", "passthrough:///{}", "{}"])
async def test_both_sides_show_certificates_on_every_kind_of_target(
    server_files: Certificate, client_files: Certificate, target: str
) -> None:
    """The name that counts is the Service's, though all of these name an address."""
    with servers("a", **server_files.environment()) as running:
        async with GreeterClient.connect(settings(target.format(running["a"][1]), client_files.settings())) as greeter:
            assert (await greeter.greet("x", timeout=DEADLINE)).served_by == "a"


REFUSALS = {
    "no certificate": "no certificate",
    "wrong authority of the client": "does not know the authority|unable to get local issuer",
    "expired client": "certificate has expired",
    "wrong authority of the server": "wrong authority: the server's certificate does not come from TLS__CA=",
    "expired server": "the server's certificate has expired",
    "wrong name": f"wrong name: the server's certificate does not carry TLS__SERVER_NAME={SERVER_NAME}",
    "plaintext server": "the server speaks plaintext, but here TLS__MODE=mtls",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_does_not_fit_is_refused_and_the_clients_log_says_why(
    server_files: Certificate, client_files: Certificate, authority: Authority, case: str
) -> None:
    """gRPC's own words are behind it, and not one call is answered."""
    mode, on_server = "mtls", server_files.environment()
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
    with servers("a", **on_server) as running, client(running["a"][1], **client_files.environment(mode)) as process:
        process.wait_for(f"calls fail: UNAVAILABLE: .*({REFUSALS[case]})")
        process.wait_for("served by nobody")
        assert not any("served by a" in line for line in process.lines)


def test_a_client_in_plaintext_gets_nothing_from_a_server_with_tls(server_files: Certificate) -> None:
    """Nor does the server serve it anything."""
    with servers("a", **server_files.environment()) as running, grpc.insecure_channel(running["a"][1]) as opened:
        with pytest.raises(grpc.RpcError) as error:
            greet(opened)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_clients_are_allowed_by_method_and_a_denied_call_is_one_line(
    tmp_path: Path, server_files: Certificate, authority: Authority
) -> None:
    """By DNS name or SPIFFE URI, exact or by prefix; health stays open; what no rule names is closed."""
    allowed = {
        "greeter.v1.GreeterService/Greet": [SPIFFE, "other"],
        "greeter.v1.GreeterService/*": ["spiffe://cluster.local/ns/admin/*"],
    }
    people = {"spiffe": (SPIFFE,), "dns": ("other",), "admin": ("spiffe://cluster.local/ns/admin/sa/x",), "stranger": ("x", "y")}
    may = {"spiffe": ("Greet",), "dns": ("Greet",), "admin": ("WatchGreetings",), "stranger": ()}
    environment = {"TLS__ALLOWED_CLIENTS": json.dumps(allowed), "SERVER__REFLECTION": "true", "SERVER__CHANNELZ": "true"}
    with servers("a", **server_files.environment(), **environment) as running:
        process, address = running["a"]
        for person, names in people.items():
            certificate = Certificate(tmp_path / person).issue(authority, names=names)
            with channel(address, certificate) as opened:
                calls = {"Greet": greet, "WatchGreetings": watch, "ServerReflectionInfo": reflect, "GetServers": look_inside}
                for method, call in calls.items():
                    if method in may[person]:
                        call(opened)
                        continue
                    with pytest.raises(grpc.RpcError) as error:
                        call(opened)
                    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, (person, method)
                    line = process.wait_for(rf"denied \S+/{method} to .*{names[0]}")
                    assert [one for one in process.lines if one == line.string] == [line.string]
                health = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
                assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_name_counts_as_what_it_is(tmp_path: Path, server_files: Certificate, authority: Authority) -> None:
    """A DNS name or an e-mail address that looks like the start of an allowed URI opens nothing, nor does a longer word."""
    rules = json.dumps([SPIFFE, "spiffe://cluster.local/ns/prod/*", "client"])
    intruders = (
        ("spiffe://cluster.local/ns/prod-evil/sa/x",),
        ("spiffe://cluster.local/ns/prod",),
        ("client.evil.example",),
        ("client@example.com",),
    )
    with servers("a", **server_files.environment(), TLS__ALLOWED_CLIENTS=rules) as running:
        for number, names in enumerate(intruders):
            with channel(running["a"][1], Certificate(tmp_path / str(number)).issue(authority, names=names)) as opened:
                with pytest.raises(grpc.RpcError) as error:
                    greet(opened)
                assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, names


def test_a_rule_for_a_method_that_does_not_exist_is_refused_at_the_start(server_files: Certificate) -> None:
    """It would protect nothing."""
    process = Process("server", **server_files.environment(), TLS__ALLOWED_CLIENTS='{"greeter.v1.GreeterService/Gret": ["x"]}')
    assert process.ended() == 2
    assert process.lines == [
        "settings: TLS__ALLOWED_CLIENTS cannot be used: 'greeter.v1.GreeterService/Gret' is no method; "
        "write package.Service/Method, package.Service/* or *"
    ]


def test_a_certificate_with_a_spiffe_uri_beside_the_dns_name_serves(
    server_files: Certificate, client_files: Certificate, authority: Authority
) -> None:
    """As SPIFFE's agents and cert-manager issue them; the DNS name is what clients check."""
    server_files.issue(authority, names=(SERVER_NAME, "spiffe://cluster.local/ns/shop/sa/server"))
    with servers("a", **server_files.environment()) as running, channel(running["a"][1], client_files) as opened:
        assert greet(opened) == "a"


@pytest.mark.parametrize("mode", ["off", "tls", "mtls"])
def test_what_tells_of_the_inside_is_off_under_mtls_unless_it_is_asked_for(
    server_files: Certificate, client_files: Certificate, mode: str
) -> None:
    """Reflection and channelz."""
    tls = {} if mode == "off" else server_files.environment(mode)
    for asked in (False, True):
        with servers("a", **tls, **({"SERVER__REFLECTION": "true", "SERVER__CHANNELZ": "true"} if asked else {})) as running:
            address = running["a"][1]
            with grpc.insecure_channel(address) if mode == "off" else channel(address, client_files) as opened:
                for call in (reflect, look_inside):
                    if mode != "mtls" or asked:
                        call(opened)
                        continue
                    with pytest.raises(grpc.RpcError) as error:
                        call(opened)
                    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_has_a_port_in_plaintext_where_it_is_asked_for_and_drains_with_the_server(server_files: Certificate) -> None:
    """For the kubelet, which knows no TLS; nothing else is offered there."""
    wait = {"SERVER__DRAIN__WAIT": "1s", "SERVER__DRAIN__GRACE": "1s"}
    with servers("a", **server_files.environment(), SERVER__HEALTH_PORT="0", **wait) as running:
        process, _ = running["a"]
        port = process.wait_for(r"health in plaintext on (\d+)")[1]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as error:
                greet(opened)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
            process.send(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert process.ended() == 0


def test_the_client_is_ready_again_and_calls_again_after_its_expired_certificate_was_renewed(
    server_files: Certificate, client_files: Certificate, authority: Authority
) -> None:
    """Started too early, or renewed too late: no restart is needed."""
    client_files.issue(authority, ended=True)
    with servers("a", **server_files.environment()) as running, client(running["a"][1], **client_files.environment()) as process:
        process.wait_for("certificate has expired")
        client_files.issue(authority)
        process.wait_for("served by a=")
        process.wait_for("ready: calls go to")


def test_garbage_in_the_files_is_told_once_and_changes_nothing(
    server_files: Certificate, client_files: Certificate, authority: Authority
) -> None:
    """Neither for connections that stand nor for new ones."""
    with servers("a", **server_files.environment()) as running:
        process, address = running["a"]
        for name, content in (("tls.crt", b"garbage"), ("tls.key", Authority().issue(["x"]).key)):
            (server_files.folder / name).write_bytes(content)
            process.wait_for(rf"CertificateFiles\(\w+='{server_files.folder}/{name}'\).*the last good certificate stays in use")
            with channel(address, client_files) as opened:
                assert greet(opened) == "a"
            server_files.issue(authority)
            process.wait_for("new TLS files")
        told = [line for line in process.lines if "stays in use" in line]
        assert len(told) == len(set(told))


def test_keys_and_passwords_are_nowhere_to_be_seen(tmp_path: Path, server_files: Certificate, client_files: Certificate) -> None:
    """Not in logs at their loudest, not in the settings as they are shown, not in metrics."""
    secrets = {
        "DISCOVERY__ETCD__USER": "u",
        "DISCOVERY__ETCD__PASSWORD": "pass-word-1",
        "TELEMETRY__OTLP_HEADERS": "token=pass-word-2",
    }
    loud = {"LOG__LEVEL": "DEBUG", "TELEMETRY__OTLP_ENDPOINT": "http://127.0.0.1:9", "TELEMETRY__INTERVAL": "500ms", **secrets}
    key = [line for line in (server_files.folder / "tls.key").read_text().splitlines() if "-----" not in line]
    with servers("a", **server_files.environment(), **loud) as running:
        process, address = running["a"]
        with client(address, **client_files.environment(), **loud) as calling:
            calling.wait_for("served by a=")
            (server_files.folder / "tls.crt").write_text("garbage")
            process.wait_for("stays in use")
            process.send(signal.SIGTERM)
            said = "\n".join([*process.lines, *calling.lines])
    for secret in ("pass-word-1", "pass-word-2", *key):
        assert secret not in said
    shown = repr(Settings(tls=Tls.model_validate(server_files.settings()), **{}))
    assert not any(line in shown for line in key)


async def test_certificates_change_under_load_and_no_call_is_lost(
    server_files: Certificate, client_files: Certificate, authority: Authority
) -> None:
    """Three servers, the authority replaced at both ends, no retry."""
    with servers("a", "b", "c", **server_files.environment()) as running:
        target = "static:///" + ",".join(address for _, address in running.values())
        chosen = settings(target, client_files.settings(), rate=200, retry={"enabled": False})
        results: list[Result] = []
        stopping = asyncio.Event()
        async with GreeterClient.connect(chosen) as greeter:
            calling = asyncio.create_task(Loop(greeter, chosen.client, results.append).run(stopping))
            while len({result.server for result in results}) < 3:
                await asyncio.sleep(0.01)
            new = Authority()
            for certificates in (server_files, client_files):
                certificates.issue(new)
            for process, _ in running.values():
                await asyncio.to_thread(process.wait_for, "new TLS files")
            for name, (_, address) in running.items():  # a new connection stands only on the new files at both ends
                with channel(address, client_files) as opened:
                    assert await asyncio.to_thread(greet, opened) == name
            after = len(results)
            while len(results) < after + 200:
                await asyncio.sleep(0.01)
            stopping.set()
            await calling
    assert Counter(result.code for result in results).keys() == {"OK"}
