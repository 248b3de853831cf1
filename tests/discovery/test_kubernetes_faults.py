"""sources/kubernetes where no API server is needed: what one cannot be made to say on cue, an HTTP server says."""

import contextlib
import http.server
import itertools
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from discovery import SourceError, TargetError

from .servers import DEADLINE

pytest.importorskip("kubernetes", reason="kubeconfigs need kubernetes: pip install kubernetes")

from discovery.sources.kubernetes import source as code
from discovery.sources.kubernetes.source import SLOW_RETRY, KubernetesSource

from .cluster_api import GRPC, Watch, end_watches, found, kubeconfig, opened, ready

A, B, C, D = (f"10.1.0.{number}" for number in range(1, 5))


class Script:
    """An HTTP server that answers each request as it is told."""

    def __init__(self) -> None:
        self.asked: queue.Queue[dict[str, str]] = queue.Queue()
        self._answers: queue.Queue[tuple[int, tuple[bytes, ...], bool] | None] = queue.Queue()
        self._closing = threading.Event()
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                script._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        self.asked.put({key: values[0] for key, values in query.items()})
        answer = self._answers.get()
        handler.close_connection = True
        if answer is None:
            self._answers.put(None)  # for the next one that still waits
            return
        status, pieces, hold = answer
        handler.send_response(status)
        handler.send_header("Connection", "close")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if hold:
                self._closing.wait()
            handler.wfile.write(b"0\r\n\r\n")

    def answer(self, *pieces: bytes | object, status: int = 200, hold: bool = False) -> None:
        """What the next request gets: bytes as they are, anything else as a line of JSON; `hold` leaves it unfinished."""
        lines = (piece if isinstance(piece, bytes) else json.dumps(piece).encode() + b"\n" for piece in pieces)
        self._answers.put((status, tuple(lines), hold))

    def close(self) -> None:
        self._closing.set()
        self._answers.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    try:
        yield made
        end_watches()
    finally:
        made.close()


def listed(version: str = "7", *items: Any) -> dict[str, Any]:
    return {"kind": "EndpointSliceList", "metadata": {"resourceVersion": version}, "items": list(items) or None}


def item(address: str, version: str = "7") -> dict[str, Any]:
    """An EndpointSlice as the API writes it."""
    return {
        "metadata": {"name": "greeter-1", "resourceVersion": version}, "addressType": "IPv4",
        "endpoints": ready(address), "ports": list(GRPC),
    }  # fmt: skip


def event(kind: str, what: Any) -> dict[str, Any]:
    return {"type": kind, "object": what}


def scripted(script: Script, tmp_path: Path) -> KubernetesSource:
    """A source that takes the script for an API server."""
    one = {"cluster": {"server": script.url}, "user": {}, "namespace": ""}
    file = kubeconfig(tmp_path / "config", one=one)
    return opened("kubernetes:///greeter.ns:grpc", kubeconfig=file, silence=DEADLINE)


SECRETS = json.dumps(
    {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
     "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
     "users": [{"name": "u", "user": {"auth-provider": {"name": "oidc", "config": {"client-secret": "S3CRET"}}}}]}
)  # fmt: skip
"""A kubeconfig that lacks a key, which the official client tells by showing the whole entry."""

GONE = {"kind": "Status", "code": 410, "message": "too old resource version"}
BROKEN = {"kind": "Status", "code": 500, "message": "etcdserver: no leader"}


@pytest.mark.parametrize("form", ["event", "answer"])
def test_410_ends_the_watch_without_an_error_in_both_its_forms(script: Script, tmp_path: Path, form: str) -> None:
    """So that the resolver lists anew."""
    script.answer(listed("7", item(A)))
    script.answer(event("ERROR", GONE) if form == "event" else GONE, status=200 if form == "event" else 410)
    assert [found(snapshot) for snapshot in scripted(script, tmp_path).watch()] == [{A}]


@pytest.mark.parametrize("form", ["event", "answer"])
def test_any_other_error_is_raised_with_what_the_server_said(script: Script, tmp_path: Path, form: str) -> None:
    """An ERROR event is no empty slice."""
    script.answer(listed("7", item(A)))
    script.answer(event("ERROR", BROKEN) if form == "event" else BROKEN, status=200 if form == "event" else 500)
    with pytest.raises(SourceError, match=r"answers 500: it failed \(etcdserver: no leader\)"):
        list(scripted(script, tmp_path).watch())


def test_a_redirect_is_not_followed(script: Script, tmp_path: Path) -> None:
    """The token would go to whoever it names."""
    script.answer(b"elsewhere", status=302)
    with pytest.raises(SourceError, match=r"answers 302: it failed \(elsewhere\)"):
        next(scripted(script, tmp_path).watch())


@pytest.mark.parametrize(
    "body", [{"message": "x" * 10**4}, b"x" * 10**6, {"message": "no\x1b[2J\nforged"}], ids=["status", "text", "hostile"]
)
def test_what_an_answer_says_is_shortened_and_escaped(script: Script, tmp_path: Path, body: object) -> None:
    """It goes to logs and terminals."""
    script.answer(body, status=403)
    with pytest.raises(SourceError, match="answers 403") as error:
        next(scripted(script, tmp_path).watch())
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


@pytest.mark.parametrize("bad", [b"<html>\n", b"5\n", b"[]\n", b"null\n", b'{"metadata": null}\n'], ids=repr)
def test_an_answer_that_is_no_list_or_no_event_is_an_error(script: Script, tmp_path: Path, bad: bytes) -> None:
    """Something else answers at this address, a proxy's page for example; a set is never made of it."""
    source = scripted(script, tmp_path)
    for before in ([], [listed("7", item(A))]):
        for answer in (*before, bad):
            script.answer(answer)
        with pytest.raises(SourceError, match=f"{script.url} sent what cannot be read"):
            list(source.watch())


def test_events_are_read_however_the_network_cuts_them_and_those_of_one_piece_are_one_set(script: Script, tmp_path: Path) -> None:
    """Bytes, not lines, arrive; a burst must not cost a snapshot an event."""
    script.answer(listed("7", item(A)))
    zoned = json.dumps(event("MODIFIED", {**item(B), "endpoints": [{"addresses": [B], "zone": "zürich"}]}), ensure_ascii=False)
    whole = zoned.encode() + b"\n"
    burst = b"".join(json.dumps(event("MODIFIED", item(address))).encode() + b"\n" for address in (A, B, C, D))
    middle = whole.index("ü".encode()) + 1
    script.answer(whole[:5], whole[5:middle], whole[middle:], burst, hold=True)
    watch = Watch(scripted(script, tmp_path))
    watch.sees(A)
    assert {(endpoint.address, endpoint.zone) for endpoint in watch.next().endpoints} == {(B, "zürich")}
    watch.sees(D)
    watch.close()


def test_a_bookmark_is_where_the_next_watch_goes_on(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet Service's version would expire otherwise. What is asked: slices of this Service, bookmarks, an end."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(code, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    script.answer(listed("7", item(A)))
    script.answer(event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
    script.answer(event("MODIFIED", item(B, "12")))
    script.answer(hold=True)
    watch = Watch(scripted(script, tmp_path))
    watch.sees(A)
    watch.sees(B)
    asked = [script.asked.get(timeout=DEADLINE) for _ in range(4)]
    assert [query.get("resourceVersion") for query in asked] == [None, "7", "9", "12"]
    assert {query["labelSelector"] for query in asked} == {"kubernetes.io/service-name=greeter"}
    assert all(
        query["allowWatchBookmarks"].lower() == "true" and 300 <= int(query["timeoutSeconds"]) <= 600 for query in asked[1:]
    )
    watch.close()


def test_a_kubeconfig_that_names_another_api_server_ends_the_watch(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions mean something else; the next watch lists."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(code, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    source = scripted(script, tmp_path)
    script.answer(listed("7", item(A)))
    script.answer(event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
    watch = source.watch()
    assert found(next(watch)) == {A}
    other = Script()
    try:
        scripted(other, tmp_path)  # writes the file
        assert [found(snapshot) for snapshot in watch] == [{A}]
        assert other.asked.empty()
        other.answer(listed("3", item(B)))
        assert found(next(source.watch())) == {B}
        assert source.registry == f"{other.url.removeprefix('http://')}/ns"
    finally:
        other.close()


def test_a_server_that_ends_watches_at_once_is_left_to_the_backoff(script: Script, tmp_path: Path) -> None:
    """It would be asked without a pause otherwise."""
    script.answer(listed("7", item(A)))
    script.answer()
    assert [found(snapshot) for snapshot in scripted(script, tmp_path).watch()] == [{A}]


def test_an_api_without_endpointslices_is_told_the_version_that_it_needs(script: Script, tmp_path: Path) -> None:
    """Tried again slowly, as a person must change something."""
    script.answer({"message": "not found"}, status=404)
    with pytest.raises(SourceError, match="answers 404: it knows no EndpointSlices in namespace 'ns': .* 1.21 or newer") as error:
        next(scripted(script, tmp_path).watch())
    assert error.value.retry_after == SLOW_RETRY


@pytest.mark.parametrize("before", [0, 1])
def test_close_ends_a_request_that_has_no_answer_yet(script: Script, tmp_path: Path, before: int) -> None:
    """The list as well as the watch."""
    for _ in range(before):
        script.answer(listed("7", item(A)))
    watch = Watch(scripted(script, tmp_path))
    for _ in range(before + 1):
        script.asked.get(timeout=DEADLINE)
    if before:
        watch.sees(A)
    watch.close()
    assert list(watch.source.watch()) == []


@pytest.mark.parametrize("text", ["", "{", "text", "[]", "\0", "{}", '{"clusters": 5}', '{"contexts": []}', SECRETS], ids=repr)
def test_a_kubeconfig_that_cannot_be_read_is_an_error_that_passes_once_it_is_mended(
    script: Script, tmp_path: Path, text: str
) -> None:
    """The sentence says why, without a word of what is secret."""
    file = tmp_path / "config"
    file.write_text(text)
    source = opened("kubernetes:///greeter.ns:grpc", kubeconfig=str(file))
    with pytest.raises(SourceError, match="the credentials for the Kubernetes API cannot be read: ") as error:
        next(source.watch())
    assert "S3CRET" not in str(error.value)
    script.answer(listed("7", item(A)))
    kubeconfig(file, one={"cluster": {"server": script.url}, "user": {}, "namespace": ""})
    assert found(next(source.watch())) == {A}


def test_without_any_credentials_a_target_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """At once, as a target that cannot be meant."""
    with pytest.raises(TargetError, match=r"no credentials for a Kubernetes API .*name a file in Kubernetes\(kubeconfig"):
        opened("kubernetes:///greeter", kubeconfig=str(tmp_path / "absent"))


def test_a_context_that_is_not_in_the_kubeconfig_is_named(tmp_path: Path) -> None:
    """It may be added later."""
    file = kubeconfig(tmp_path / "config", one={"cluster": {"server": "http://127.0.0.1:1"}, "user": {}, "namespace": ""})
    with pytest.raises(SourceError, match="name absent in"):
        next(opened("kubernetes:///greeter", kubeconfig=file, context="absent").watch())
