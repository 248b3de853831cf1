"""What etcd's keys, values, settings and registrations may hold, and faults that no real etcd shows on cue; needs none."""

import ipaddress
import json
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from discovery import Config, Endpoint, Etcd, Registrar, Snapshot, SourceError, TargetError
from discovery.sources.etcd import _Listing, decode, open_source
from discovery.sources.etcd_client import Entry
from discovery.target import parse
from discovery.wire import messages_pb2 as wire

from .servers import DEADLINE

many = settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "300")), deadline=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
flat = scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(), scalars, max_size=4)
# Not st.recursive, which takes four times as long: the fuzzer wants many, and nobody reads deeper.
anything = flat | st.lists(flat, max_size=2) | st.dictionaries(st.text(), flat, max_size=2)
hosts = st.ip_addresses().map(lambda ip: f"[{ip}]" if ip.version == 6 else str(ip)) | st.text(max_size=8)
addresses = st.builds("{}:{}".format, hosts, st.integers(-1, 70000))
near = st.fixed_dictionaries({}, optional={"Addr": addresses | anything, "Metadata": anything})
HALF = "\ud800"  # of a surrogate pair: JSON can spell it, UTF-8 cannot hold it


def at(port: int) -> bytes:
    return b'{"Op":0,"Addr":"10.0.0.1:%d","Metadata":null}' % port


class Watched:
    """A source that is watched on a thread, and begun anew after an error, as a resolver does."""

    def __init__(self, settings: Etcd, service: str) -> None:
        self.seen: queue.Queue[Snapshot | Exception] = queue.Queue()
        self._last: Snapshot | None = None
        self._source = open_source(parse(f"etcd:///{service}"), Config(etcd=settings))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                for snapshot in self._source.watch():
                    self.seen.put(snapshot)
            except Exception as error:
                self.seen.put(error)
            self._closing.wait(0.05)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._source.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _news(self) -> Snapshot | Exception:
        """What differs from the last set, because a source may repeat itself."""
        end = time.monotonic() + DEADLINE
        while True:
            item = self.seen.get(timeout=max(0.0, end - time.monotonic()))
            if self._last is None or (item, getattr(item, "problems", ())) != (self._last, self._last.problems):
                return item

    def next(self, *passed_over: type[Exception]) -> Snapshot:
        while isinstance(item := self._news(), passed_over):
            pass
        assert isinstance(item, Snapshot), item
        self._last = item
        return item

    def ports(self, *passed_over: type[Exception]) -> set[int]:
        return {endpoint.port for endpoint in self.next(*passed_over).endpoints}

    def error(self) -> str:
        """The next error; after it everything begins anew."""
        item = self._news()
        assert isinstance(item, SourceError), item
        self._last = None
        return str(item)


def value(**fields: object) -> bytes:
    return json.dumps({"Op": 0, "Addr": "10.0.0.1:80", "Metadata": None, **fields}).encode()


def held(content: bytes, key: bytes = b"service/id") -> Endpoint:
    """The endpoint of a value that holds one."""
    found = decode(key, content)
    assert isinstance(found, Endpoint), found
    return found


def one_endpoint_or_one_sentence(key: bytes, content: bytes) -> None:
    found = decode(key, content)
    snapshot = Snapshot.of([] if isinstance(found, str) else [found], [found] if isinstance(found, str) else [])
    assert len(snapshot) + len(snapshot.problems) == 1
    assert all(problem.isprintable() for problem in snapshot.problems)
    for text in (*snapshot.problems, *(part for each in snapshot.endpoints for part in each if isinstance(part, str))):
        text.encode()  # it is logged, printed and sent on


@many
@given(st.binary(), st.binary())
def test_any_bytes_at_all_are_an_endpoint_or_a_sentence(key: bytes, content: bytes) -> None:
    """Whatever anybody writes below the prefix, the watch goes on."""
    one_endpoint_or_one_sentence(key, content)


@many
@given(anything | near)
@example({"Addr": "10.0.0.1:80", "Metadata": {"zone": HALF}})
@example({"Addr": f"{HALF}:80"})
@example({"Addr": HALF})
def test_any_json_at_all_is_an_endpoint_or_a_sentence(content: object) -> None:
    """And either can be written down as UTF-8."""
    one_endpoint_or_one_sentence(b"service/id", json.dumps(content).encode())


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'{"Addr":"10.0.0.1:' + b"9" * 10_000 + b'"}']
)
def test_values_made_to_exhaust_the_reader_are_a_sentence(content: bytes) -> None:
    """Nesting without an end, and numbers without one."""
    assert isinstance(decode(b"service/id", content), str)


@many
@given(
    st.ip_addresses().filter(lambda ip: not (ip.is_unspecified or ip.is_multicast)),
    st.integers(1, 65535),
    st.text(),
    st.integers(1, 65535),
    st.dictionaries(st.text().filter(lambda name: name not in ("zone", "weight")), anything, max_size=4),
)
def test_what_the_registrar_writes_is_what_the_source_reads(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, zone: str, weight: int, metadata: dict[str, Any]
) -> None:
    """Address, zone, weight and every field of one's own."""
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    registrar = Registrar("etcd:///service", f"{host}:{port}", zone=zone, weight=weight, metadata=metadata)
    found = held(registrar._value, registrar.key.encode())
    assert found._replace(metadata="") == Endpoint(str(ip), port, zone=zone, weight=weight, name=f"service/{host}:{port}")
    told = json.loads(found.metadata or "{}")
    assert {name: item for name, item in told.items() if name not in ("zone", "weight")} == metadata
    assert Snapshot.of([found]) == Snapshot(frozenset({found}))


writes = st.tuples(
    st.sampled_from((b"a", b"b", b"c")),
    st.none() | st.sampled_from(("10.0.0.1:1", "10.0.0.1:2", "[2001:DB8::1]:1", "[2001:db8:0::1]:1", "x")),
)


@many
@given(st.lists(st.lists(writes)))
def test_changes_one_by_one_are_the_set_that_is_read_at_once(batches: list[list[tuple[bytes, str | None]]]) -> None:
    """Whatever the order: places that two keys hold for a while, values that are wrong for a while, addresses in any spelling."""
    listing = _Listing()
    keys: dict[bytes, bytes] = {}
    for batch in batches:
        for key, address in batch:
            if address is None:
                keys.pop(key, None)
            else:
                keys[key] = value(Addr=address)
        after = listing.apply(Entry(key, None if address is None else value(Addr=address), 0, 1) for key, address in batch)
        at_once = _Listing().apply(Entry(key, content, 0, 1) for key, content in keys.items())
        assert (after, sorted(after.problems)) == (at_once, sorted(at_once.problems))


@many
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_field_names_count_in_every_spelling_of_case(upper: list[bool]) -> None:
    """As Go's encoding/json reads them."""
    letters = [letter.upper() if up else letter for letter, up in zip("addrmetadata", upper, strict=True)]
    content = {"".join(letters[:4]): "10.0.0.1:80", "".join(letters[4:]): {"zone": "a"}}
    assert held(json.dumps(content).encode())[:3] == ("10.0.0.1", 80, "a")


@many
@given(st.dictionaries(st.text().filter(lambda name: name.lower() not in ("addr", "metadata")), anything))
def test_fields_that_nobody_knows_are_let_be(others: dict[str, Any]) -> None:
    """Whoever adds one does not take servers from the clients that are older."""
    assert held(value(**others)) == held(value())


@many
@given(st.floats(allow_nan=False) | st.booleans() | st.text() | st.none() | st.integers(max_value=0) | st.integers(65536))
def test_an_odd_weight_counts_as_one(weight: object) -> None:
    """A server whose weight is a boolean, a fraction, negative or too large still serves."""
    assert repr(held(value(Metadata={"weight": weight})).weight) == "1"


@many
@given(anything.filter(lambda metadata: metadata is not None))
def test_metadata_is_kept_as_it_is(metadata: object) -> None:
    """Also where it is no object, as other programs may write it."""
    assert json.loads(held(value(Metadata=metadata)).metadata) == metadata


SCRIPTS: list[tuple[list[wire.WatchResponse], str]] = [
    (
        [wire.WatchResponse(created=True), wire.WatchResponse(canceled=True, cancel_reason="no leader")],
        "ended the watch: no leader",
    ),
    ([wire.WatchResponse(created=True, canceled=True)], "ended the watch: no reason given"),
    ([wire.WatchResponse(created=True)], "closed the stream (Watch)"),
]


@pytest.mark.parametrize(("script", "reason"), SCRIPTS, ids=["cancelled", "refused", "closed"])
def test_a_watch_that_the_member_ends_is_an_error(script: list[wire.WatchResponse], reason: str) -> None:
    """Cancelled, or closed as if nothing were wrong: a scripted member, because a real one cannot be told to."""
    methods: dict[str, Any] = {
        "etcdserverpb.KV": {"Range": grpc.unary_unary_rpc_method_handler(
            lambda request, context: wire.RangeResponse(), response_serializer=wire.RangeResponse.SerializeToString)},
        "etcdserverpb.Watch": {"Watch": grpc.stream_stream_rpc_method_handler(
            lambda requests, context: iter(script), response_serializer=wire.WatchResponse.SerializeToString)},
    }  # fmt: skip
    member = grpc.server(ThreadPoolExecutor(4))
    member.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, each) for name, each in methods.items()])
    address = f"127.0.0.1:{member.add_insecure_port('127.0.0.1:0')}"
    member.start()
    with Watched(Etcd((address,)), "foo") as watched:
        for _ in range(2):
            assert watched.ports() == set()
            assert watched.error() == f"etcd at {address} {reason}"
    member.stop(None).wait(DEADLINE)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"endpoints": ()}, "has no member"),
        ({"certificate": "c.pem"}, r"Etcd\(certificate=\.\.\.\) needs key"),
        ({"key": "k.pem"}, r"Etcd\(key=\.\.\.\) needs certificate"),
        ({"user": "app"}, r"Etcd\(user=\.\.\.\) needs password"),
        ({"password": "secret"}, r"Etcd\(password=\.\.\.\) needs user"),
        ({"timeout": 0.0}, r"Etcd\(timeout=0.0\) must be between"),
        ({"keepalive": float("nan")}, r"Etcd\(keepalive=nan\) must be between"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], reason: str) -> None:
    """At once, with a sentence that names the setting."""
    with pytest.raises(TargetError, match=reason):
        Etcd(**fields)


def test_the_password_is_not_shown() -> None:
    """Not in a log line that prints the settings."""
    assert "secret" not in repr(Config(etcd=Etcd(user="app", password="secret")))


SPELLINGS = ["", "etcd", "etcd:", "etcd:0", "etcd:70000", "::1:2379", "ftp://etcd:2379", "https://", "http://etcd:2379/v3"]


@pytest.mark.parametrize("endpoint", SPELLINGS)
def test_an_endpoint_that_cannot_be_meant_is_refused(endpoint: str) -> None:
    """Before anything is connected, with the spelling that would do."""
    config = Config(etcd=Etcd(endpoints=(endpoint,)))
    for opened in (lambda: open_source(parse("etcd:///service"), config), lambda: registrar(config=config)):
        with pytest.raises(TargetError, match=rf"'{endpoint}' cannot be used: .*; write host:port or https://host:port"):
            opened()


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_a_certificate_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    """The sentence names the setting and the path."""
    files: dict[str, Any] = {each: str(tmp_path / f"{each}.pem") for each in ("ca", "certificate", "key")}
    for each in files.keys() - {name}:
        Path(files[each]).touch()
    config = Config(etcd=Etcd(endpoints=("https://127.0.0.1:1",), **files))
    for opened in (lambda: open_source(parse("etcd:///service"), config), lambda: registrar(config=config)):
        with pytest.raises(TargetError, match=rf"Etcd\({name}='{files[name]}'\) cannot be read: No such file"):
            opened()


def registrar(target: str = "etcd:///service", address: str = "10.0.0.1:50051", **others: Any) -> Registrar:
    return Registrar(target, address, **others)


def test_the_value_is_what_gos_naming_package_writes() -> None:
    """Byte for byte, and the key is the address unless an id is given."""
    assert registrar()._value == b'{"Op":0,"Addr":"10.0.0.1:50051","Metadata":null}'
    assert (registrar().key, registrar(id="pod-7").key) == ("service/10.0.0.1:50051", "service/pod-7")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"address": "0.0.0.0:50051"}, "others cannot reach 0.0.0.0"),
        ({"address": "[::]:50051"}, "others cannot reach ::"),
        ({"address": "224.0.0.1:50051"}, "others cannot reach 224.0.0.1"),
        ({"address": "[ff02::1]:50051"}, "others cannot reach ff02::1"),
        ({"address": "[fe80::1%eth0]:50051"}, "zone index"),
        ({"address": "greeter.local:50051"}, "write the IP address and port"),
        ({"address": "10.0.0.1"}, "write the IP address and port"),
        ({"address": "10.0.0.1:0"}, "port from 1 to 65535"),
        ({"target": "dns-poll:///service"}, "takes no registration, only etcd does"),
        ({"target": "etcd://service"}, "three slashes"),
        ({"ttl": 0}, r"Registrar\(ttl=0\) must be between 1 and 3600"),
        ({"ttl": 3601}, r"Registrar\(ttl=3601\) must be between 1 and 3600"),
        ({"id": "a/b"}, "must not hold '/'"),
        ({"metadata": {"a": object()}}, "must hold what JSON can"),
        ({"metadata": {"a": float("nan")}}, "must hold what JSON can"),
        ({"metadata": {"a": HALF}}, "must hold what JSON can"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(arguments: dict[str, Any], reason: str) -> None:
    """At once, with a sentence that says what to write."""
    with pytest.raises(TargetError, match=reason):
        registrar(**arguments)
