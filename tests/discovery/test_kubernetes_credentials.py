"""sources/kubernetes: a pod's files, kubeconfigs and exec plugins, on an API server on loopback; test_kubernetes.py has a real one."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from discovery import SourceError, TargetError
from discovery.sources.kubernetes import connection, source
from discovery.sources.kubernetes.source import KubernetesSource
from discovery.testing import ApiServer, api_server

from .servers import until

pytest.importorskip("kubernetes", reason="kubeconfigs need kubernetes: pip install kubernetes")
pytest.importorskip("trustme", reason="the TLS tests need trustme: pip install trustme")

from .cluster_api import Watch, end_watches, found, kubeconfig, opened

TARGET = "kubernetes:///greeter.ns:grpc"
A, B = "10.1.0.1", "10.1.0.2"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server() as made:
        made.set("greeter", [f"{A}:50051"], "ns")
        yield made


@pytest.fixture
def secure() -> Iterator[ApiServer]:
    with api_server(tls=True) as made:
        made.set("greeter", [f"{A}:50051"], "ns")
        yield made


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    end_watches()


def user(api: ApiServer, **what: object) -> dict[str, Any]:
    """A kubeconfig's context for this API server."""
    cluster = {"server": api.url, **({"certificate-authority-data": _base64(Path(api.ca))} if api.ca else {})}
    return {"cluster": cluster, "user": what, "namespace": "ns"}


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def addresses(source: KubernetesSource) -> set[str]:
    return found(next(source.watch()))


# ---- in a pod ----


class Pod:
    """What this process finds as a pod."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, patch
        patch.setattr(source, "ACCOUNT", str(folder))
        for name in ("KUBECONFIG", "HOME"):
            patch.setenv(name, "")

    def belongs_to(self, api: ApiServer) -> None:
        self._patch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        self._patch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        (self._folder / "token").write_text(f"{api.token}\n")
        shutil.copy(api.ca, self._folder / "ca.crt")

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)


@pytest.fixture
def pod(secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    made = Pod(tmp_path, monkeypatch)
    made.belongs_to(secure)
    return made


def test_in_a_pod_the_namespace_file_is_read_only_for_a_target_without_a_namespace(secure: ApiServer, pod: Pod) -> None:
    """It is absent where a token is projected by hand."""
    assert addresses(opened(TARGET)) == {A}
    short = opened("kubernetes:///greeter:grpc")
    with pytest.raises(SourceError, match="credentials for the Kubernetes API cannot be read: .*namespace"):
        next(short.watch())
    assert short.registry == ""
    pod.write("namespace", "ns\n")
    assert addresses(short) == {A}
    assert short.registry == f"127.0.0.1:{secure.port}/ns"


def test_in_a_pod_a_new_token_and_a_new_authority_are_used_for_the_next_connection(pod: Pod) -> None:
    """The kubelet replaces both; here the API server is replaced by one that trusts neither of the old ones."""
    opening = opened(TARGET)
    assert addresses(opening) == {A}
    with api_server(tls=True) as other:
        other.token = "another"
        other.set("greeter", [f"{B}:50051"], "ns")
        pod.belongs_to(other)
        assert addresses(opening) == {B}


@pytest.mark.parametrize("token", ["S3CRET\nS3CRET", "S3CRETé"], ids=ascii)
def test_a_token_that_cannot_be_one_is_not_shown(pod: Pod, token: str) -> None:
    """An error of the standard library would show it."""
    pod.write("token", token)
    with pytest.raises(SourceError, match="the token holds characters") as error:
        next(opened(TARGET).watch())
    assert "S3CRET" not in str(error.value)


def test_an_api_server_may_have_an_ipv6_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: ApiServer) -> None:
    """Clusters of one family have a Service address of it."""
    Pod(tmp_path, monkeypatch).belongs_to(secure)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    access = connection.pod_access(tmp_path, namespace=False)
    assert access.url == f"https://[fd00::1]:{secure.port}"
    assert connection.Connection(access, 1).host == "fd00::1"


# ---- opening ----

_OPENING = """
import sys
{before}
from discovery import Config, Kubernetes, TargetError
from discovery.sources.kubernetes import open_source
from discovery.target import parse
try:
    open_source(parse("kubernetes:///greeter.ns"), Config(kubernetes=Kubernetes(kubeconfig=sys.argv[1])))
except TargetError as error:
    print(error)
print(sorted({{"kubernetes", "yaml", "http.client"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [("", "[]"), ("sys.modules['kubernetes'] = None", "needs the library kubernetes, except in a pod: pip install")],
    ids=["present", "missing"],
)
def test_opening_imports_nothing_and_tells_at_once_that_the_library_is_missing(tmp_path: Path, before: str, said: str) -> None:
    """An event loop may be what opens a channel; whatever is wrong with the kubeconfig is told later."""
    (tmp_path / "config").write_text("{")
    command = [sys.executable, "-c", _OPENING.format(before=before), str(tmp_path / "config")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said in done.stdout, done.stderr


def test_one_of_several_files_of_a_kubeconfig_may_be_missing(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kubectl has it; where all are missing, there are no credentials."""
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{tmp_path / 'config'}")
    with pytest.raises(TargetError, match="there are no credentials for a Kubernetes API"):
        opened(TARGET)
    kubeconfig(tmp_path / "config", one=user(api, token=api.token))
    assert addresses(opened(TARGET)) == {A}


# ---- kubeconfigs ----


def test_a_kubeconfig_that_is_written_anew_is_read_for_the_next_connection(api: ApiServer, tmp_path: Path) -> None:
    """Without a 401 before, which the old token would get."""
    file = kubeconfig(tmp_path / "config", one=user(api, token=api.token))
    opening = opened(TARGET, kubeconfig=file)
    assert addresses(opening) == {A}
    api.token = "another"
    kubeconfig(tmp_path / "config", one=user(api, token=api.token))
    assert addresses(opening) == {A}


def test_certificates_in_a_kubeconfig_leave_no_file_behind(
    secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official client would write them, the private key too, into files that a cleaner of /tmp takes away from it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    import trustme

    pair = trustme.CA().issue_cert("client")
    data = {
        "client-certificate-data": base64.b64encode(pair.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(pair.private_key_pem.bytes()).decode(),
    }
    opening = opened(TARGET, kubeconfig=kubeconfig(tmp_path / "config", one=user(secure, token=secure.token, **data)))
    assert addresses(opening) == {A}
    assert list((tmp_path / "temporary").iterdir()) == []
    secure.stop()
    secure.start()
    assert addresses(opening) == {A}


def test_an_authority_that_is_replaced_is_read_after_the_handshake_has_failed(secure: ApiServer, tmp_path: Path) -> None:
    """The file that a kubeconfig names may change without the kubeconfig."""
    one = user(secure, token=secure.token)
    one["cluster"] = {"server": secure.url, "certificate-authority": str(tmp_path / "ca.crt")}
    with api_server(tls=True) as other:
        shutil.copy(other.ca, tmp_path / "ca.crt")
    opening = opened(TARGET, kubeconfig=kubeconfig(tmp_path / "config", one=one))
    with pytest.raises(SourceError, match="certificate verify failed"):
        next(opening.watch())
    shutil.copy(secure.ca, tmp_path / "ca.crt")
    assert addresses(opening) == {A}


# ---- exec plugins ----


class Plugin:
    """A program that prints a token. `runs` counts how often."""

    def __init__(self, folder: Path) -> None:
        self.file, self._runs = folder / "plugin", folder / "runs"
        self._runs.touch()

    def write(self, script: str) -> None:
        self.file.write_text(f"#!/bin/sh\necho >> '{self._runs}'\n{script}\n")
        self.file.chmod(0o755)

    def prints(self, **status: str) -> None:
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self.write(f"echo '{json.dumps(answer)}'")

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines())

    def config(self, api: ApiServer, folder: Path) -> str:
        command = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(self.file), "interactiveMode": "Never"}
        return kubeconfig(folder / "config", one=user(api, exec=command))


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def test_a_plugins_token_is_used_until_it_expires(api: ApiServer, plugin: Plugin, tmp_path: Path) -> None:
    """A broken connection alone is no reason to run it, because it may take seconds."""
    later = datetime.now(UTC) + timedelta(hours=1)
    plugin.prints(token=api.token, expirationTimestamp=later.isoformat())
    opening = opened(TARGET, kubeconfig=plugin.config(api, tmp_path))
    assert addresses(opening) == {A}
    api.stop()
    for _ in range(3):
        with pytest.raises(SourceError, match="cannot be read: ConnectionRefusedError"):
            next(opening.watch())
    api.start()
    assert addresses(opening) == {A}
    assert plugin.runs == 1


def test_a_plugin_runs_again_when_its_token_has_expired(api: ApiServer, plugin: Plugin, tmp_path: Path) -> None:
    """As kubectl does."""
    plugin.prints(token=api.token, expirationTimestamp="2020-01-01T00:00:00Z")
    opening = opened(TARGET, kubeconfig=plugin.config(api, tmp_path))
    assert [addresses(opening) for _ in range(2)] == [{A}, {A}]
    assert plugin.runs == 2


def test_a_plugin_runs_again_when_its_token_is_not_accepted(api: ApiServer, plugin: Plugin, tmp_path: Path) -> None:
    """After the 401, and not before."""
    plugin.prints(token=api.token)
    opening = opened(TARGET, kubeconfig=plugin.config(api, tmp_path))
    assert addresses(opening) == {A}
    api.token = "another"
    plugin.prints(token=api.token)
    with pytest.raises(SourceError, match="answers 401"):
        next(opening.watch())
    assert addresses(opening) == {A}
    assert plugin.runs == 2


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no login >&2; exit 3", r"the exec plugin '.*/plugin' failed with code 3: no login"),
        ("echo hello", "printed no ExecCredential with a status"),
        ("exec sleep 3600", "took more than 0.2 s"),
        ("sleep 3600 & wait", "took more than 0.2 s"),
    ],
)
def test_a_plugin_that_fails_or_hangs_is_an_error_that_passes(
    api: ApiServer, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """The sentence says what it complained about; what hangs is killed with its children."""
    plugin.write(script)
    opening = opened(TARGET, kubeconfig=plugin.config(api, tmp_path))
    with monkeypatch.context() as patch:
        if "took" in said:
            patch.setattr(connection, "PLUGIN_TIMEOUT", 0.2)
        with pytest.raises(SourceError, match=said):
            next(opening.watch())
    plugin.prints(token=api.token)
    assert addresses(opening) == {A}


def test_close_kills_a_plugin_that_runs(api: ApiServer, plugin: Plugin, tmp_path: Path) -> None:
    """It might wait for a person for ever."""
    plugin.write("sleep 3600 & wait")
    opening = opened(TARGET, kubeconfig=plugin.config(api, tmp_path))
    watch = Watch(opening)
    until(lambda: plugin.runs == 1)
    watch.close()


# ---- connecting ----


def _full(stack: contextlib.ExitStack) -> int:
    """A port whose queue is full: a connection to it stays in progress."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    return int(listener.getsockname()[1])


def _mute(stack: contextlib.ExitStack) -> int:
    """A port that accepts connections and says nothing: the handshake stays in progress."""
    return int(stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])


@pytest.mark.parametrize("port", [_full, _mute])
def test_close_ends_a_connection_that_is_being_made(port: Any, secure: ApiServer, tmp_path: Path) -> None:
    """Long before its timeout of an hour."""
    with contextlib.ExitStack() as stack:
        one = user(secure, token=secure.token)
        one["cluster"]["server"] = f"https://127.0.0.1:{port(stack)}"
        file = kubeconfig(tmp_path / "config", one=one)
        watch = Watch(opened(TARGET, kubeconfig=file, timeout=3600))
        until(lambda: watch.source._connection is not None and watch.source._connection._socket is not None)
        time.sleep(0.1)  # nothing tells that the connection is in progress
        watch.close()


def test_the_proxy_of_a_kubeconfig_is_used_with_its_password(
    secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By CONNECT; one that speaks something else is refused by its scheme. One of the environment has its exceptions."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        asked: list[bytes] = []
        thread = threading.Thread(target=_tunnel, args=(listener, secure.port, asked), daemon=True)
        thread.start()
        one = user(secure, token=secure.token)
        one["cluster"]["proxy-url"] = f"http://me:S3CRET@127.0.0.1:{listener.getsockname()[1]}"
        file = kubeconfig(tmp_path / "config", one=one)
        assert addresses(opened(TARGET, kubeconfig=file)) == {A}
        assert asked[0].startswith(f"CONNECT 127.0.0.1:{secure.port} ".encode())
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:S3CRET") in asked[0]
        monkeypatch.setenv("HTTPS_PROXY", one["cluster"].pop("proxy-url"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert addresses(opened(TARGET, kubeconfig=kubeconfig(tmp_path / "config", one=one))) == {A}
        assert len(asked) == 1
        one["cluster"]["proxy-url"] = "socks5://me:S3CRET@127.0.0.1:1"
        with pytest.raises(SourceError, match="a proxy of scheme 'socks5' cannot be used") as error:
            next(opened(TARGET, kubeconfig=kubeconfig(tmp_path / "config", one=one)).watch())
        assert "S3CRET" not in str(error.value)


def _tunnel(listener: socket.socket, port: int, asked: list[bytes]) -> None:
    """One connection through a proxy."""
    near, _ = listener.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        asked.append(near.recv(2**16))
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            to.sendall(content)
        to.shutdown(socket.SHUT_WR)


# ---- versions ----

_ROOT = Path(__file__).parents[2]


def test_the_oldest_versions_that_are_supported_do_the_same(tmp_path: Path) -> None:
    """The oldest official client that pyproject.toml allows, with the urllib3 of its time; pip takes them from the index."""
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [needed] = extras["kubernetes"]
    oldest = needed.replace(">=", "==") + ".*"
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(tmp_path / "old")]
    subprocess.run([*install, oldest, "urllib3<2"], check=True, timeout=120)
    here = [f"tests/discovery/{name}.py" for name in ("test_kubernetes_credentials", "test_kubernetes_faults")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'old'}:{_ROOT}"}
    program = "import kubernetes, sys, urllib3; print(kubernetes.__version__, urllib3.__version__)"
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.startswith(f"{oldest.removeprefix('kubernetes==').removesuffix('*')}")
    assert shown.stdout.split()[1].startswith("1.")
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-q", *here, "-k", "not oldest_versions"]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
