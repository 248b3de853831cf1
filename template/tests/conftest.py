"""Shared fixtures: settings that come only from the test, and a running server in this process."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.defaults import PREFIX
from {{ cookiecutter.package_name }}.server import servicer
from {{ cookiecutter.package_name }}.server.app import build
from {{ cookiecutter.package_name }}.settings import Server, Settings

from tests.processes import start

__all__ = ["address", "start"]


@pytest.fixture(autouse=True)
def _ignore_the_developers_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore the developer's `.env` and environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """The address of a running server with all of its services."""
    settings = Settings(server=Server(host="127.0.0.1", port=0))
    async with servicer.services(settings) as services:
        app = await build(settings, services)
        await app.start()
        yield f"127.0.0.1:{app.port}"
        await app.server.stop(0)
        await app.close()
