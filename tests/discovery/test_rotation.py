"""Certificates that change under a living channel: no call is lost, on any kind of target, and garbage never counts."""

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import Health, aio, secure_channel, status

from .servers import DEADLINE, streaming, unary, until, who
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


def answers(channel: grpc.Channel) -> bool:
    try:
        return bool(who(channel))
    except grpc.RpcError:
        return False


def healths(target: str) -> dict[Health, int]:
    return status(target).by_health()


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


@pytest.mark.parametrize("target", TARGETS)
async def test_rotation_under_load_loses_no_call_of_grpc_aio(folders: tuple[Folder, Folder], target: str) -> None:
    """The same on an event loop."""
    server, client = folders
    answers: list[str] = []
    ended = asyncio.Event()

    async def load(call: Any) -> None:
        while not ended.is_set():
            try:
                answers.append((await call(b"", timeout=DEADLINE)).decode())
            except grpc.RpcError as error:
                answers.append(f"failed: {error}")

    with secure_server(server.files()) as address:
        async with aio.secure_channel(written(target, address), client.files(), OPTIONS) as channel:
            loads = [asyncio.create_task(load(unary(channel))) for _ in range(4)]
            await asyncio.to_thread(until, lambda: bool(answers))
            await asyncio.to_thread(renew_all, folders, lambda: answers[-1])
            ended.set()
            await asyncio.gather(*loads)
    assert not [answer for answer in answers if "failed" in answer]


def test_a_stream_goes_on_where_it_began_and_its_channel_ends_behind_it(folders: tuple[Folder, Folder]) -> None:
    """Calls that begin later are on the new channel."""
    server, client = folders
    with secure_server(server.files()) as address, secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
        before = who(channel)
        stream = streaming(channel)(b"")
        next(stream)
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: "renewed" in who(channel))
        assert [next(stream) for _ in range(50)] == [before.encode()] * 50
        old = channel._channel.generations  # type: ignore[attr-defined]
        assert len(old.all()) == 2
        stream.cancel()
        until(lambda: len(old.all()) == 1)


async def test_a_stream_of_grpc_aio_goes_on_where_it_began(folders: tuple[Folder, Folder]) -> None:
    """And its channel ends behind it."""
    server, client = folders
    with secure_server(server.files()) as address:
        async with aio.secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
            before = (await unary(channel)(b"", timeout=DEADLINE)).decode()
            stream = streaming(channel)(b"")
            await stream.read()
            client.issue(server.issue(trustme.CA()), identity="renewed")
            while "renewed" not in (await unary(channel)(b"", timeout=DEADLINE)).decode():
                pass
            assert [(await stream.read()).decode() for _ in range(50)] == [before] * 50
            generations = channel._channel._generations  # type: ignore[attr-defined]
            assert len(generations.all()) == 2
            stream.cancel()
            await asyncio.to_thread(until, lambda: len(generations.all()) == 1)


def test_a_certificate_that_servers_refuse_does_not_take_over(folders: tuple[Folder, Folder]) -> None:
    """As while the servers know the new authority later than the clients; then it does."""
    server, client = folders
    with secure_server(server.files()) as address, secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
        who(channel)
        new = trustme.CA()
        client.issue(new, identity="too-early")
        pending = channel._channel  # type: ignore[attr-defined]
        until(lambda: pending._fresh is not None)
        for _ in range(100):
            assert "too-early" not in who(channel)
        server.issue(new)
        until(lambda: "too-early" in who(channel))


def test_where_nothing_stands_the_new_certificate_counts_at_once(folders: tuple[Folder, Folder], authority: Any) -> None:
    """A client that began with a certificate that had ended is let in when it is renewed."""
    server, client = folders
    client.issue(authority, expired=True)
    with secure_server(server.files()) as address, secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
        with pytest.raises(grpc.RpcError):
            who(channel)
        client.issue(authority)
        until(lambda: answers(channel))


def test_an_idle_channel_changes_hands_though_no_server_is_there(folders: tuple[Folder, Folder]) -> None:
    """Else the first calls after a renewal would be made with the old certificate."""
    _, client = folders
    with secure_channel("dns:///127.0.0.1:1", client.files(), OPTIONS) as channel:
        generations: Any = getattr(channel, "generations")  # noqa: B009
        before = generations.current
        client.issue(trustme.CA())
        until(lambda: generations.current is not before)


async def test_an_idle_channel_of_grpc_aio_changes_hands_though_no_server_is_there(folders: tuple[Folder, Folder]) -> None:
    """The same, from its first use on."""
    _, client = folders
    async with aio.secure_channel("dns:///127.0.0.1:1", client.files(), OPTIONS) as channel:
        generations: Any = channel.used()  # type: ignore[attr-defined]
        before = generations.current
        client.issue(trustme.CA())
        await asyncio.to_thread(until, lambda: generations.current is not before)


async def test_a_channel_of_grpc_aio_that_waits_is_ready_with_the_new_certificate(
    folders: tuple[Folder, Folder], authority: Any
) -> None:
    """Who waits for readiness hears of the channel that takes over."""
    server, client = folders
    client.issue(authority, expired=True)
    with secure_server(server.files()) as address:
        async with aio.secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
            waiting = asyncio.create_task(channel.channel_ready())
            queued = unary(channel)(b"", timeout=DEADLINE, wait_for_ready=True)  # keeps the old channel open
            with pytest.raises(grpc.aio.AioRpcError):
                await unary(channel)(b"", timeout=DEADLINE)
            assert not waiting.done()
            client.issue(authority)
            await asyncio.wait_for(waiting, DEADLINE)
            queued.cancel()


def test_connectivity_is_told_across_a_renewal(folders: tuple[Folder, Folder]) -> None:
    """To whoever subscribed before it."""
    server, client = folders
    states: list[grpc.ChannelConnectivity] = []
    with secure_server(server.files()) as address, secure_channel(f"dns:///{address}", client.files(), OPTIONS) as channel:
        channel.subscribe(states.append, try_to_connect=True)
        until(lambda: grpc.ChannelConnectivity.READY in states)
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: "renewed" in who(channel))
        until(lambda: states.count(grpc.ChannelConnectivity.READY) > 1)
        channel.unsubscribe(states.append)


@pytest.mark.parametrize("way", ["close", "forget"])
def test_a_channel_that_is_closed_or_forgotten_follows_nothing(folders: tuple[Folder, Folder], way: str) -> None:
    """No thread stays behind."""
    server, client = folders
    files = client.files()
    with secure_server(server.files()) as address:
        channel = secure_channel(f"static:///{address}", files, OPTIONS)
        who(channel)
        if way == "close":
            channel.close()
        else:
            del channel
            gc.collect()
        assert not files._subscribers


def test_every_kind_of_method_survives_a_renewal(folders: tuple[Folder, Folder]) -> None:
    """With its other forms: with_call and future."""
    server, client = folders
    with secure_server(server.files()) as address, secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
        call = unary(channel)
        upload: Any = channel.stream_unary("/test.Echo/Upload")
        chat: Any = channel.stream_stream("/test.Echo/Chat")
        for name in ("client-0", "renewed"):
            assert name in call.with_call(b"", timeout=DEADLINE)[0].decode()
            assert name in call.future(b"", timeout=DEADLINE).result().decode()
            assert name in upload(iter([b"", b""]), timeout=DEADLINE).decode()
            assert [name in answer.decode() for answer in chat(iter([b"", b""]), timeout=DEADLINE)] == [True, True]
            if name == "client-0":
                client.issue(server.issue(trustme.CA()), identity="renewed")
                until(lambda: "renewed" in who(channel))


def test_the_health_of_endpoints_is_asked_with_the_new_certificate(folders: tuple[Folder, Folder]) -> None:
    """A server that was away while everything was replaced, and comes back as NOT_SERVING: only the new files can hear that."""
    server, client = folders
    with secure_server(server.files(), health="SERVING") as address:
        channel = secure_channel(f"static:///{address}", client.files(), OPTIONS)
        until(lambda: healths(f"static:///{address}") == {Health.HEALTHY: 1})
    with channel:
        until(lambda: healths(f"static:///{address}") == {Health.UNKNOWN: 1})  # so it has been asked again, with the old ones
        client.issue(server.issue(trustme.CA()), identity="renewed")
        with secure_server(server.files(), health="NOT_SERVING", address=address):
            until(lambda: healths(f"static:///{address}") == {Health.UNHEALTHY: 1})
