"""The library with the oldest versions that pyproject.toml allows, with the newest, with neighbors that share its names, and with
every warning an error."""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

trustme = pytest.importorskip("trustme", reason="the TLS calls need trustme: pip install trustme")

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
import grpc, grpc.aio
import discovery
folder = pathlib.Path(sys.argv[1])
ca, certificate, key = (str(folder / name) for name in ("ca.crt", "tls.crt", "tls.key"))

def server(name, credentials=None):
    made = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Who": answer}),))
    port = made.add_secure_port("127.0.0.1:0", credentials) if credentials else made.add_insecure_port("127.0.0.1:0")
    made.start()
    return made, f"127.0.0.1:{port}"

pair = (pathlib.Path(key).read_bytes(), pathlib.Path(certificate).read_bytes())
servers = [server(b"a"), server(b"b"), server(b"tls", grpc.ssl_server_credentials([pair]))]
a, b, tls = (address for _, address in servers)

def name(method):
    # As the generated client finds it; there is no public attribute.
    while not isinstance(method, bytes):
        method = method._method
    return method

manual = discovery.Manual("greeter.test")
manual.set([a])
with discovery.insecure_channel(manual.target) as channel:
    call = channel.unary_unary("/test.Echo/Who")
    assert call(b"", timeout=20) == b"a"
    manual.set([b])
    while call(b"", timeout=20) != b"b":
        pass
    assert discovery.status(manual.target).nacks == 0
manual.set([tls])
for credentials in (grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes()), discovery.CertificateFiles(ca=ca)):
    with discovery.secure_channel(manual.target, credentials) as channel:
        assert channel.unary_unary("/test.Echo/Who")(b"", timeout=20) == b"tls"

async def main():
    manual.set([a])
    async with discovery.aio.insecure_channel(manual.target) as channel:
        call = channel.unary_unary("/test.Echo/Who")
        assert name(call) == b"/test.Echo/Who"
        assert await call(b"", timeout=20) == b"a"
        manual.set([b])
        while await call(b"", timeout=20) != b"b":
            pass
    manual.set([tls])
    async with discovery.aio.secure_channel(manual.target, discovery.CertificateFiles(ca=ca)) as channel:
        call = channel.unary_unary("/test.Echo/Who")
        assert name(call) == b"/test.Echo/Who"
        assert await call(b"", timeout=20) == b"tls"
    async with grpc.aio.insecure_channel(a) as channel:
        assert name(channel.unary_stream("/test.Echo/Follow")) == b"/test.Echo/Follow"

asyncio.run(main())
for made, _ in servers:
    made.stop(None).wait()
"""

NEIGHBORS = (
    PROGRAM
    + """
import grpc_csds, opentelemetry.proto
from envoy.service.status.v3 import csds_pb2
try:
    from opentelemetry import metrics
except ImportError as error:
    assert not isinstance(error, ModuleNotFoundError)
else:
    sys.exit("OpenTelemetry's API is installed: this proves nothing")
with discovery.insecure_channel("static:///127.0.0.1:1") as channel:
    try:
        channel.unary_unary("/test.Echo/Who")(b"", timeout=20)
    except grpc.RpcError:
        pass
    found = grpc_csds.ClientStatusDiscoveryServiceServicer.FetchClientStatus(csds_pb2.ClientStatusRequest(), None)
    assert any(each.client_scope.startswith("xds://grpc-discovery/static.") for each in found.config)
"""
)


def oldest() -> list[str]:
    """The lower end of each requirement of the library."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert all(re.fullmatch(r"[a-z]+>=[0-9.]+", each) for each in requirements)
    return [each.replace(">=", "==") for each in requirements]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and tls.crt and tls.key for the name of the target."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("greeter.test")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    return folder


def run(python: str | Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("requirements", "program"),
    [
        pytest.param(
            oldest(),
            PROGRAM,
            id="oldest",
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest grpcio has no wheel for this Python"),
        ),
        pytest.param(["grpcio", "protobuf", "grpcio-admin", "opentelemetry-proto"], NEIGHBORS, id="newest, beside others"),
    ],
)
def test_a_set_of_versions_calls_follows_and_closes(
    tmp_path: Path, certificates: Path, requirements: list[str], program: str
) -> None:
    """Sync, aio, plaintext and TLS, in an environment that has nothing else. xds-protos, which grpcio-admin brings, has Envoy's messages
    and a part of OpenTelemetry's package."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:", *requirements)
    assert installed.returncode == 0, installed.stderr
    done = run(python, "-c", program, certificates)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_warning_is_given_in_development_mode(certificates: Path) -> None:
    """A file or socket that is not closed, a deprecated function."""
    done = run(sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM, certificates)
    assert (done.returncode, done.stderr) == (0, "")
