"""control_plane.py spoken to as gRPC speaks to it, over its socket: the rules of the xDS transport protocol."""

import os
import queue
import stat
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from discovery.snapshot import Endpoint, Snapshot
from discovery.wire import messages_pb2 as xds
from discovery.xds.control_plane import ControlPlane
from discovery.xds.resources import ASSIGNMENT, CLUSTER, LISTENER, TYPE_PREFIX, TargetResources, resource_name
from discovery.xds.service_config import ServiceConfig

from .fakes import snapshot
from .servers import DEADLINE, unary, until


class Client:
    """One ADS stream, driven by hand."""

    def __init__(self, server_uri: str) -> None:
        self._requests: queue.Queue[xds.DiscoveryRequest | None] = queue.Queue()
        self._answers: queue.Queue[xds.DiscoveryResponse] = queue.Queue()
        self._channel = grpc.insecure_channel(server_uri)
        self._call = self._channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=xds.DiscoveryRequest.SerializeToString,
            response_deserializer=xds.DiscoveryResponse.FromString,
        )(iter(self._requests.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
        except grpc.RpcError:
            pass

    def ask(self, kind: str, *names: str, refused: str = "") -> None:
        request = xds.DiscoveryRequest(type_url=TYPE_PREFIX + kind, resource_names=[resource_name(kind, name) for name in names])
        if refused:
            request.error_detail.message = refused
        self._requests.put(request)

    def answer(self) -> tuple[str, list[str]]:
        """The next answer: its type, and the sorted values of its resources' name fields."""
        found = self._answers.get(timeout=DEADLINE)
        kind = found.type_url.removeprefix(TYPE_PREFIX)
        reader: Any = {LISTENER: xds.Listener, CLUSTER: xds.Cluster, ASSIGNMENT: xds.ClusterLoadAssignment}[kind]
        messages = [reader.FromString(body.value) for body in found.resources]
        names = [message.cluster_name if isinstance(message, xds.ClusterLoadAssignment) else message.name for message in messages]
        return kind, sorted(name.removeprefix(resource_name(kind, "")) for name in names)

    def nothing(self) -> bool:
        """Whether no answer comes: another question is asked and answered first."""
        self.ask(LISTENER, "probe")
        return self.answer() == (LISTENER, ["probe"])

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    made = ControlPlane()
    add(made, "probe")
    made.publish("probe", snapshot(1))
    yield made
    made.close()


@pytest.fixture
def client(plane: ControlPlane) -> Iterator[Client]:
    made = Client(plane.server_uri)
    yield made
    made.close()


def add(plane: ControlPlane, name: str, refusals: list[str] | None = None) -> None:
    plane.add(name, TargetResources(name, "", ServiceConfig()), (refusals if refusals is not None else []).append)


def test_no_endpoints_are_answered_before_the_first_set(plane: ControlPlane, client: Client) -> None:
    """gRPC then waits, instead of failing calls at once; Listener and Cluster it must have soon, or it takes them for deleted."""
    add(plane, "a")
    client.ask(CLUSTER, "a/1-0")
    assert client.answer() == (CLUSTER, ["a/1-0"])
    client.ask(ASSIGNMENT, "a/1-0")
    assert client.nothing()
    plane.publish("a", snapshot(1))
    assert client.answer() == (ASSIGNMENT, ["a/1-0"])


def test_a_name_that_was_dropped_and_asked_for_again_is_answered_again(plane: ControlPlane, client: Client) -> None:
    """Also when nothing has changed in between, and when both requests arrive before an answer: gRPC has forgotten it."""
    add(plane, "a")
    plane.publish("a", snapshot(1))
    for _ in range(3):
        client.ask(ASSIGNMENT, "a/1-0")
        assert client.answer() == (ASSIGNMENT, ["a/1-0"])
        client.ask(ASSIGNMENT)


def test_listeners_and_clusters_are_always_answered_whole(plane: ControlPlane, client: Client) -> None:
    """One that is missing in an answer counts as deleted."""
    for name in "ab":
        add(plane, name)
        plane.publish(name, snapshot(1))
    client.ask(LISTENER, "a")
    assert client.answer() == (LISTENER, ["a"])
    client.ask(LISTENER, "a", "b")
    assert client.answer() == (LISTENER, ["a", "b"])
    client.ask(CLUSTER, "a/1-0")
    assert client.answer() == (CLUSTER, ["a/1-0"])
    client.ask(CLUSTER, "a/1-0", "b/1-0")
    assert client.answer() == (CLUSTER, ["a/1-0", "b/1-0"])


def test_only_endpoints_that_changed_are_sent_again(plane: ControlPlane, client: Client) -> None:
    """An answer for assignments may be partial, and another target's change is not this one's."""
    for name in "ab":
        add(plane, name)
        plane.publish(name, snapshot(1))
    client.ask(ASSIGNMENT, "a/1-0", "b/1-0")
    assert client.answer() == (ASSIGNMENT, ["a/1-0", "b/1-0"])
    plane.publish("b", snapshot(2))
    assert client.answer() == (ASSIGNMENT, ["b/1-0"])


def test_an_equal_set_is_not_sent(plane: ControlPlane, client: Client) -> None:
    """Nor is an acknowledgement a question."""
    add(plane, "a")
    plane.publish("a", snapshot(1))
    client.ask(ASSIGNMENT, "a/1-0")
    client.answer()
    client.ask(ASSIGNMENT, "a/1-0")
    plane.publish("a", snapshot(1))
    assert client.nothing()


def test_a_target_that_comes_back_is_sent_even_to_an_old_stream(plane: ControlPlane, client: Client) -> None:
    """The stream of a closed channel may live on for a while and be used by the next one."""
    add(plane, "a")
    plane.publish("a", snapshot(1))
    client.ask(ASSIGNMENT, "a/1-0")
    client.answer()
    plane.remove("a")
    add(plane, "a")
    plane.publish("a", snapshot(2))
    assert client.answer() == (ASSIGNMENT, ["a/1-0"])


def test_a_refusal_is_logged_and_reported_to_its_target_only(
    plane: ControlPlane, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC keeps the set before; so do we."""
    refusals: dict[str, list[str]] = {"a": [], "b": []}
    for name, told in refusals.items():
        add(plane, name, told)
        plane.publish(name, snapshot(1))
    client.ask(ASSIGNMENT, "a/1-0")
    client.answer()
    client.ask(ASSIGNMENT, "a/1-0", refused="bad address")
    assert client.nothing()
    assert refusals == {"a": [f"gRPC refused {ASSIGNMENT}: bad address"], "b": []}
    assert "bad address; the last good set stays in use" in caplog.text


def test_a_name_of_somebody_else_does_no_harm(plane: ControlPlane, client: Client) -> None:
    """A bootstrap of ours alone also answers for plain xds:/// names, with nothing."""
    client._requests.put(xds.DiscoveryRequest(type_url=TYPE_PREFIX + LISTENER, resource_names=["foreign"]))
    assert client.nothing()


def test_the_socket_lies_where_no_other_user_can_reach_it(plane: ControlPlane) -> None:
    """A directory of its own, mode 0700, a path that fits a socket, and nothing left after the end."""
    path = plane.server_uri.removeprefix("unix:")
    directory = os.path.dirname(path)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert sorted(os.listdir(directory)) == ["ads", "lock"]
    assert len(path) < 108
    plane.close()
    assert not os.path.exists(directory)


def test_a_long_or_unusable_temporary_directory_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A socket's path holds about a hundred bytes; a container may have no writable temporary directory."""
    for unusable in (str(tmp_path_factory.mktemp("x" * 110)), "/nowhere"):
        monkeypatch.setenv("TMPDIR", unusable)
        made = ControlPlane()
        assert not made.server_uri.startswith(f"unix:{unusable}")
        made.close()


def test_gRPC_refuses_a_bad_first_set_and_the_target_learns_of_it() -> None:  # noqa: N802
    """The whole way: gRPC's own refusal reaches the status. Such a set cannot be made by Snapshot.of."""
    from discovery import Manual, insecure_channel, status

    manual = Manual("test-refused")
    with insecure_channel(manual.target) as channel:
        manual._board.publish(Snapshot(frozenset({Endpoint("no-address", 1)})))
        with pytest.raises(grpc.RpcError):
            unary(channel)(b"", timeout=DEADLINE)
        until(lambda: status(manual.target).nacks > 0)
        told = status(manual.target)
    assert "no-address" in (told.last_nack or "")
