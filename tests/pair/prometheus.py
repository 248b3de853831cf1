"""Prometheus and promtool: from the PATH, or unpacked from Debian's package, whose installation would start a daemon."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.bake import ROOT

from .processes import DEADLINE

UNPACKED = ROOT / "build" / "prometheus"

Series = dict[str, Any]


class Prometheus:
    """Scrapes one address, with the labels as they are there. A context manager."""

    def __init__(self, folder: Path, scraped: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        scrape = {"job_name": "collector", "honor_labels": True, "static_configs": [{"targets": [scraped]}]}
        config = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        options = [
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ]
        self._process = subprocess.Popen([program("prometheus"), *options], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        started = next((line for line in self._process.stderr if "Server is ready to receive web requests" in line), None)
        assert started, "Prometheus has not started"
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def query(self, expression: str) -> list[Series]:
        """The series of an expression, now. Raises AssertionError with Prometheus' reason for one that it does not understand."""
        with self._get(f"query?{urllib.parse.urlencode({'query': expression})}") as answer:
            data = json.load(answer)
        assert data["status"] == "success", (expression, data["error"])
        found: list[Series] = data["data"]["result"]
        return found

    def _get(self, path: str) -> Any:
        try:
            return urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=DEADLINE)
        except urllib.error.HTTPError as error:
            return error

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def program(name: str) -> str:
    """prometheus or promtool. Skips the test where neither can be had."""
    path = f"{os.environ['PATH']}{os.pathsep}{UNPACKED}/usr/bin"
    if shutil.which(name, path=path) is None and shutil.which("apt-get"):
        UNPACKED.mkdir(parents=True, exist_ok=True)
        with (UNPACKED.parent / "prometheus.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unpack = "apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb"
            subprocess.run(["sh", "-c", unpack], cwd=UNPACKED, capture_output=True)
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(
            "needs Prometheus: apt-get update, or put prometheus and promtool on the PATH (https://prometheus.io/download)"
        )
    return found
