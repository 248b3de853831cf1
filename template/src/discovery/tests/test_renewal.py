"""Certificates that change under a living channel: no call is lost, on any kind of target, and garbage never counts."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from .. import secure_channel
from .servers import DEADLINE, unary, until
from .tls_servers import NAME, OPTIONS, Folder, secure_server, trustme

TARGETS = {
    "static": "static:///{address}",
    "dns": "dns:///localhost:{port}",
    "passthrough": "passthrough:///localhost:{port}",
    "plain": "{address}",
    "ipv4": "ipv4:{address}",
}


@pytest.fixture
def authority() -> Any:
    return trustme.CA()


@pytest.fixture
def folders(tmp_path: Path, authority: Any) -> tuple[Folder, Folder]:
    """The server's files and the client's."""
    return Folder(tmp_path / "server", NAME, authority), Folder(tmp_path / "client", "client-0", authority)


def written(target: str, address: str) -> str:
    return TARGETS[target].format(address=address, port=address.rpartition(":")[2])


def renew_all(folders: tuple[Folder, Folder], identity: Callable[[], str]) -> None:
    """Another certificate of the same authority, then another authority in the three steps that lose nobody: both are
    believed, certificates come from the new one, the old one is dropped. Then yet another at one stroke."""
    server, client = folders
    old, new, newest = trustme.CA(), trustme.CA(), trustme.CA()
    steps = [((old, old, new), (old, old, new)), ((new, old, new), (new, old, new)), ((new,), (new,)), ((newest,), (newest,))]
    for number, (for_server, for_client) in enumerate(steps):
        server.issue(*for_server)
        client.issue(*for_client, identity=f"step-{number}")
        until(lambda number=number: f"step-{number}" in identity())  # type: ignore[misc]


@pytest.mark.parametrize("target", TARGETS)
def test_rotation_under_load_loses_no_call(folders: tuple[Folder, Folder], target: str) -> None:
    """Leaf, overlap of authorities, and an authority replaced at one stroke; four threads that call, no retry."""
    server, client = folders
    answers: list[str] = []
    ended = threading.Event()

    def load(call: Any) -> None:
        while not ended.is_set():
            try:
                answers.append(call(b"", timeout=DEADLINE).decode())
            except grpc.RpcError as error:
                answers.append(f"failed: {error.code()} {error.details()}")

    with secure_server(server.files()) as address:
        channel = secure_channel(written(target, address), client.files(), OPTIONS)
        with channel:
            call = unary(channel)
            threads = [threading.Thread(target=load, args=(call,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                until(lambda: bool(answers))
                renew_all(folders, lambda: answers[-1])
            finally:
                ended.set()
                for thread in threads:
                    thread.join()
    assert not [answer for answer in answers if "failed" in answer]
