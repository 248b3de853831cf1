"""Certificates that change under a living channel: no call is lost, on any kind of target, and garbage never counts."""

import asyncio
import contextlib
import gc
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from discovery import CertificateFiles, Config, Health, aio, secure_channel, status
from discovery.testing import Proxy
from discovery.tls.aio_rotation import RenewedChannel as AioRenewedChannel
from discovery.tls.rotation import RenewedChannel

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


UNWATCHED = Config(health=None)
"""Without the connection by which the library asks for health."""


@contextlib.contextmanager
def counted(files: CertificateFiles) -> Iterator[Proxy]:
    """A secure server behind a proxy that counts connections; nothing is left to the garbage collector."""
    with secure_server(files) as address:
        host, _, port = address.rpartition(":")
        proxy = Proxy((host, int(port)))
        gc.disable()
        try:
            yield proxy
        finally:
            gc.enable()
            proxy.close()


def method(channel: grpc.Channel, kind: str, name: str) -> Any:
    """A method of a kind of call."""
    return getattr(channel, kind)(f"/test.Echo/{name}")


BEGIN: dict[str, Callable[[grpc.Channel], Any]] = {
    "stream": lambda channel: streaming(channel)(b""),
    "future": lambda channel: method(channel, "unary_unary", "Wait").future(b""),
    "upload": lambda channel: method(channel, "stream_unary", "WaitAll").future(iter([b""])),
    "chat": lambda channel: method(channel, "stream_stream", "Chat")(iter(queue.SimpleQueue().get, None)),
}
"""Calls that do not end by themselves."""


@pytest.mark.parametrize("kind", BEGIN)
@pytest.mark.parametrize("target", ["static", "dns"])
def test_a_call_goes_on_where_it_began_and_its_connection_ends_behind_it(
    folders: tuple[Folder, Folder], target: str, kind: str
) -> None:
    """Calls that begin later are on the new channel, methods made before it among them, and ones that are not called again."""
    server, client = folders
    with (
        counted(server.files()) as proxy,
        secure_channel(written(target, proxy.address), client.files(), OPTIONS, config=UNWATCHED) as channel,
    ):
        never_called_again = unary(channel)
        before = never_called_again(b"", timeout=DEADLINE)
        call = BEGIN[kind](channel)
        if kind == "stream":
            assert next(call) == before
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: "renewed" in who(channel))
        assert proxy.connections == 2
        assert call.is_active()
        if kind == "stream":
            assert [next(call) for _ in range(50)] == [before] * 50
        call.cancel()
        until(lambda: proxy.connections == 1)
    until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("kind", BEGIN)
def test_close_cancels_the_calls_on_a_channel_that_was_replaced(folders: tuple[Folder, Folder], kind: str) -> None:
    """As gRPC's close does it to all calls of a channel."""
    server, client = folders
    with counted(server.files()) as proxy:
        channel = secure_channel(f"static:///{proxy.address}", client.files(), OPTIONS, config=UNWATCHED)
        who(channel)
        call = BEGIN[kind](channel)
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: "renewed" in who(channel))
        channel.close()
        until(lambda: not call.is_active())
        assert call.code() is grpc.StatusCode.CANCELLED
        until(lambda: proxy.connections == 0)


def test_a_stream_that_opentelemetry_wraps_goes_on_where_it_began(folders: tuple[Folder, Folder]) -> None:
    """It is a generator, which begins the call with the first answer, and has no method to cancel it; close does."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.grpc")
    server, client = folders
    with counted(server.files()) as proxy:

        def open(credentials: grpc.ChannelCredentials) -> grpc.Channel:
            channel = grpc.secure_channel(f"dns:///{proxy.address}", credentials, OPTIONS)
            wrapped: grpc.Channel = instrumentation.intercept_channel(channel, instrumentation.client_interceptor())
            return wrapped

        channel: Any = RenewedChannel(client.files(), open)
        before = unary(channel)(b"", timeout=DEADLINE)
        ended, closed, unread = (streaming(channel)(b"") for _ in range(3))
        assert (next(ended), next(closed)) == (before, before)
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: b"renewed" in unary(channel)(b"", timeout=DEADLINE))
        assert proxy.connections == 2
        assert [next(stream) for stream in (ended, closed) for _ in range(50)] == [before] * 100
        assert next(unread) == before
        ended.close()
        unread.close()
        channel.close()
        with pytest.raises(grpc.RpcError) as error:
            list(closed)
        assert error.value.code() is grpc.StatusCode.CANCELLED
        until(lambda: proxy.connections == 0)


def test_close_takes_no_lock(folders: tuple[Folder, Folder]) -> None:
    """A signal handler may call it while its thread holds one."""
    _, client = folders
    channel = RenewedChannel(client.files(), lambda credentials: grpc.secure_channel("dns:///127.0.0.1:1", credentials))
    closing = threading.Thread(target=channel.close, daemon=True)
    with channel._lock:
        closing.start()
        closing.join(DEADLINE)
    assert not closing.is_alive()


def test_close_cancels_a_call_on_a_replaced_channel_for_which_a_thread_waits(folders: tuple[Folder, Folder]) -> None:
    """The caller has no call to cancel."""
    server, client = folders
    codes: list[grpc.StatusCode] = []

    def wait(channel: grpc.Channel) -> None:
        try:
            method(channel, "unary_unary", "Wait")(b"")
        except grpc.RpcError as error:
            codes.append(error.code())

    with counted(server.files()) as proxy:
        channel = secure_channel(f"static:///{proxy.address}", client.files(), OPTIONS, config=UNWATCHED)
        who(channel)
        waiting = threading.Thread(target=wait, args=(channel,))
        waiting.start()
        client.issue(server.issue(trustme.CA()), identity="renewed")
        until(lambda: "renewed" in who(channel))
        channel.close()
        waiting.join(DEADLINE)
    assert codes == [grpc.StatusCode.CANCELLED]


async def test_a_stream_of_grpc_aio_goes_on_where_it_began_and_its_connection_ends_behind_it(
    folders: tuple[Folder, Folder],
) -> None:
    """The same on an event loop; close cancels what still runs."""
    server, client = folders
    with counted(server.files()) as proxy:
        async with aio.secure_channel(f"static:///{proxy.address}", client.files(), OPTIONS, config=UNWATCHED) as channel:
            before = (await unary(channel)(b"", timeout=DEADLINE)).decode()
            streams = [streaming(channel)(b"") for _ in range(2)]
            for stream in streams:
                await stream.read()
            await renewed(server, client, channel)
            assert proxy.connections == 2
            for stream in streams:
                assert [(await stream.read()).decode() for _ in range(50)] == [before] * 50
                stream.cancel()
            del stream, streams  # a call of grpc.aio keeps its connection as long as it is referred to
            await asyncio.to_thread(until, lambda: proxy.connections == 1)
            call = streaming(channel)(b"")
            await call.read()
            await renewed(server, client, channel, "again")
        assert await call.code() is grpc.StatusCode.CANCELLED
        del call
        await asyncio.to_thread(until, lambda: proxy.connections == 0)


async def renewed(server: Folder, client: Folder, channel: grpc.aio.Channel, identity: str = "renewed") -> None:
    """Replace everything, and wait until it is used."""
    client.issue(server.issue(trustme.CA()), identity=identity)
    while identity not in (await unary(channel)(b"", timeout=DEADLINE)).decode():
        pass


async def test_an_interceptor_of_grpc_aio_may_begin_a_call_after_the_channel_was_replaced(folders: tuple[Folder, Folder]) -> None:
    """As one that fetches a token first: gRPC's own collected channel would refuse the call."""
    server, client = folders
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Fetch(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
            if request == b"slow":
                asked.set()
                await go_on.wait()
            return await continuation(details, request)

    with secure_server(server.files()) as address:
        async with aio.secure_channel(f"static:///{address}", client.files(), OPTIONS, interceptors=[Fetch()]) as channel:
            assert await unary(channel)(b"", timeout=DEADLINE)
            call = unary(channel)(b"slow", timeout=DEADLINE)
            await asked.wait()
            await renewed(server, client, channel)
            gc.collect()
            go_on.set()
            assert await call


# gRPC's own thread may come upon the channel that is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_channel_that_is_forgotten_while_another_connects_leaves_nothing(folders: tuple[Folder, Folder]) -> None:
    """Neither the one in use nor the one that no server accepts, nor a thread."""
    server, client = folders
    with counted(server.files()) as proxy:
        others = set(threading.enumerate())
        channel = secure_channel(f"dns:///{proxy.address}", client.files(), OPTIONS)
        who(channel)
        accepted = proxy.accepted
        client.issue(trustme.CA(), identity="unknown")
        until(lambda: proxy.accepted > accepted)
        del channel
        until(lambda: proxy.connections == 0)
        until(lambda: all(thread.name != "discovery certificates" for thread in set(threading.enumerate()) - others))


def test_a_certificate_that_servers_refuse_does_not_take_over(folders: tuple[Folder, Folder]) -> None:
    """As while the servers know the new authority later than the clients; then it does."""
    server, client = folders
    with secure_server(server.files()) as address, secure_channel(f"static:///{address}", client.files(), OPTIONS) as channel:
        who(channel)
        new = trustme.CA()
        client.issue(new, identity="too-early")
        renewing = channel._channel  # type: ignore[attr-defined]
        until(lambda: renewing._fresh is not None)
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
    opened: list[grpc.ChannelCredentials] = []

    def open(credentials: grpc.ChannelCredentials) -> grpc.Channel:
        opened.append(credentials)
        return grpc.secure_channel("dns:///127.0.0.1:1", credentials)

    files = client.files()
    channel = RenewedChannel(files, open)
    before = channel.current
    client.issue(trustme.CA())
    until(lambda: channel.current is not before)
    assert opened[-1] is files.credentials
    channel.close()


async def test_an_idle_channel_of_grpc_aio_changes_hands_though_no_server_is_there(folders: tuple[Folder, Folder]) -> None:
    """The same, from its first use on."""
    _, client = folders
    channel = AioRenewedChannel(client.files(), lambda credentials: grpc.aio.secure_channel("dns:///127.0.0.1:1", credentials))
    channel.follow()
    before = channel.current
    client.issue(trustme.CA())
    await asyncio.to_thread(until, lambda: channel.current is not before)
    await channel.close()


def test_a_renewal_that_fails_is_tried_again(folders: tuple[Folder, Folder]) -> None:
    """As when the system has no thread left for a moment."""
    _, client = folders
    failures = [RuntimeError("can't start new thread"), MemoryError()]

    def open(credentials: grpc.ChannelCredentials) -> grpc.Channel:
        if credentials is not first and failures:
            raise failures.pop()
        return grpc.secure_channel("dns:///127.0.0.1:1", credentials)

    files = client.files()
    first = files.credentials
    channel = RenewedChannel(files, open)
    before = channel.current
    client.issue(trustme.CA())
    until(lambda: channel.current is not before)
    channel.close()


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
        told = len(states)
        client.issue(server.issue(trustme.CA()), identity="again")
        until(lambda: "again" in who(channel))
    assert len(states) == told


@pytest.mark.parametrize("way", ["close", "forget"])
def test_a_channel_that_is_closed_or_forgotten_follows_nothing(folders: tuple[Folder, Folder], way: str) -> None:
    """No thread stays behind."""
    server, client = folders
    with secure_server(server.files()) as address:
        others = set(threading.enumerate())
        channel = secure_channel(f"dns:///{address}", client.files(), OPTIONS)
        who(channel)
        if way == "close":
            channel.close()
        else:
            del channel
            gc.collect()
        until(lambda: all(thread.name != "discovery certificates" for thread in set(threading.enumerate()) - others))


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


def test_a_forked_child_uses_the_files_of_its_parent(folders: tuple[Folder, Folder], tmp_path: Path) -> None:
    """With channels of its own, which follow the files; one that was open at the fork says so, and can be closed."""
    server, client = folders
    authority = trustme.CA()
    client.issue(authority, authority)
    server.issue(authority, authority)
    renewed = Folder(tmp_path / "renewed", "client-0", authority, identity="renewed")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with secure_server(server.files()) as address:
        done = subprocess.run(
            [sys.executable, "-c", _FORK, address, str(client.path), str(renewed.path)],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
    assert done.stdout.split() == ["renewed", "parent", "refused", "closed"], done.stderr


_FORK = """
import os, shutil, sys
import discovery
from tests.discovery.servers import DEADLINE, until, who
from tests.discovery.tls_servers import OPTIONS

address, folder, renewed = sys.argv[1:]
names = ("ca.crt", "tls.key", "tls.crt")
paths = dict(zip(("ca", "key", "certificate"), (os.path.join(folder, name) for name in names)))
files = discovery.CertificateFiles(**paths, refresh=0.05)
open_channel = lambda: discovery.secure_channel(f"static:///{address}", files, OPTIONS)

def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

files.subscribe(lambda credentials: None)
child = os.fork()
if not child:
    with open_channel() as channel:
        assert "renewed" not in who(channel)
        for name in names:
            shutil.copy(os.path.join(renewed, name), os.path.join(folder, "next"))
            os.replace(os.path.join(folder, "next"), os.path.join(folder, name))
        until(lambda: "renewed" in who(channel))
        print("renewed", flush=True)
    os._exit(0)
wait(child)
channel = open_channel()
assert "renewed" in who(channel)
print("parent", flush=True)
child = os.fork()
if not child:
    try:
        who(channel)
    except discovery.ControlPlaneError:
        print("refused", flush=True)
    files.check()
    channel.close()
    print("closed", flush=True)
    os._exit(0)
wait(child)
"""
