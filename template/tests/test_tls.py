"""The pair over TLS: who gets in and who does not, and certificates that change under load."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from {{ cookiecutter.package_name }}.client.api import GreeterClient
from {{ cookiecutter.package_name }}.client.loop import Loop, Result
from {{ cookiecutter.package_name }}.defaults import SERVER_NAME
from {{ cookiecutter.package_name }}.settings import Client, Settings, Tls

from .processes import DEADLINE, Process, servers


class Certificate:
    """Three files in the layout of a mounted Secret, replaced by rename."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir()
        self.folder = folder
        self._names = names

    def issue(self, authority: Any, *trusted: Any, ended: bool = False, names: tuple[str, ...] = ()) -> "Certificate":
        """A new certificate of `authority`; those of `trusted`, or else of `authority`, are the ones to believe."""
        ends = datetime.now(UTC) + timedelta(days=-1 if ended else 1)
        issued = authority.issue_cert(*(names or self._names), not_after=ends)
        self._write("ca.crt", b"".join(each.cert_pem.bytes() for each in trusted or (authority,)))
        self._write("tls.key", issued.private_key_pem.bytes())
        self._write("tls.crt", b"".join(pem.bytes() for pem in issued.cert_chain_pems))
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

    def _write(self, name: str, content: bytes) -> None:
        (self.folder / "next").write_bytes(content)
        os.replace(self.folder / "next", self.folder / name)


@pytest.fixture
def authority() -> Any:
    return trustme.CA()


@pytest.fixture
def server_files(tmp_path: Path, authority: Any) -> Certificate:
    return Certificate(tmp_path / "server", SERVER_NAME).issue(authority)


@pytest.fixture
def client_files(tmp_path: Path, authority: Any) -> Certificate:
    return Certificate(tmp_path / "client", "client").issue(authority)


def settings(target: str, tls: dict[str, str], **client: object) -> Settings:
    return Settings(client=Client.model_validate({"target": target, **client}), tls=Tls.model_validate(tls))


async def test_certificates_change_under_load_and_no_call_is_lost(
    server_files: Certificate, client_files: Certificate, authority: Any
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
            new = trustme.CA()
            for certificates in (server_files, client_files):
                certificates.issue(new)
            for process, _ in running.values():
                await asyncio.to_thread(process.wait_for, "new TLS files")
            after = len(results)
            while len(results) < after + 200:
                await asyncio.sleep(0.01)
            stopping.set()
            await calling
    assert Counter(result.code for result in results).keys() == {"OK"}
