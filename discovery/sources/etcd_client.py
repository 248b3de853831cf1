"""etcd's v3 API, as far as discovery needs it, over one connection to one member: requests in, plain values or EtcdError out.

Nothing is retried here, and no state is kept: after an error, the caller closes the client and opens another one, on the next member.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from ..config import Etcd
from ..errors import CertificateError, TargetError
from ..snapshot import parse_authority
from ..tls.certificates import CertificateFiles
from ..wire import messages_pb2 as wire
from ..wire import own_channel

Answer = TypeVar("Answer", bound=Message)


class EtcdError(Exception):
    """A request to a member failed; the text is a sentence that names the member and the reason."""


_QUESTIONS = 5
"""How often a watch requests progress within `timeout`: a member drops the request while it is behind with that watch."""


class Entry(NamedTuple):
    """A key in etcd; `value` is None if it was deleted. `lease` is 0 for none."""

    key: bytes
    value: bytes | None
    lease: int


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`: etcd's `range_end`. `prefix` must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class EtcdClient:
    """A connection to one member, authenticated if a user is set. Its owner closes it.

    Raises TargetError if the certificate files of the settings cannot be read.
    """

    def __init__(self, settings: Etcd, member: int) -> None:
        address, tls = _address(settings.endpoints[member % len(settings.endpoints)], bool(settings.ca or settings.certificate))
        self._settings = settings
        self.address = address
        options = (
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # a separate connection, so that closing the channel closes it
            ("grpc.max_receive_message_length", -1),  # a prefix is returned in one message
        )
        self._channel = own_channel(address, _credentials(settings) if tls else None, options)
        self._token: str | None = None

    def close(self) -> None:
        """Close the connection and end whatever runs on it. May be called from another thread, and twice."""
        self._channel.close()

    def authenticate(self) -> None:
        """Exchange user and password, if set, for the token of every later request."""
        if self._settings.user:
            request = wire.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
            self._token = self._ask("Auth/Authenticate", request, wire.AuthenticateResponse).token

    def range(self, key: bytes, range_end: bytes = b"") -> tuple[int, list[Entry]]:
        """The revision, and every key from `key` up to `range_end`, or `key` alone. Linearizable: a member without a
        leader does not answer."""
        answer = self._ask("KV/Range", wire.RangeRequest(key=key, range_end=range_end), wire.RangeResponse)
        return answer.header.revision, [Entry(kv.key, kv.value, kv.lease) for kv in answer.kvs]

    def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Set a key attached to `lease`; returns the revision."""
        return self._ask("KV/Put", wire.PutRequest(key=key, value=value, lease=lease), wire.PutResponse).header.revision

    def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds."""
        return self._ask("Lease/LeaseGrant", wire.LeaseGrantRequest(ttl=ttl), wire.LeaseGrantResponse).id

    def revoke(self, lease: int) -> None:
        """Revoke a lease, which deletes all of its keys."""
        self._ask("Lease/LeaseRevoke", wire.LeaseRevokeRequest(id=lease), wire.LeaseRevokeResponse)

    def keep_alive(self, lease: int) -> bool:
        """Renew a lease; False if it has expired."""
        call = self._method("stream_stream", "Lease/LeaseKeepAlive", wire.LeaseKeepAliveResponse)
        answers = call(iter([wire.LeaseKeepAliveRequest(id=lease)]), timeout=self._settings.timeout, metadata=self._metadata())
        try:
            return bool(next(iter(answers)).ttl > 0)
        except (grpc.RpcError, StopIteration, ValueError) as error:
            raise self._failed("keep a lease", error) from None
        finally:
            answers.cancel()

    def watch(self, key: bytes, range_end: bytes, revision: int) -> "Watch":
        """Every change from `revision` on, which must not be in the future: until it is reached, members since 3.4.25 and 3.5.8 send no
        progress. After reading a revision, watch from that one, and its changes come again."""
        return Watch(self, key, range_end, revision)

    def _ask(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self._method("unary_unary", method, answer)
        try:
            given: Answer = call(request, timeout=self._settings.timeout, metadata=self._metadata())
            return given
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed in between
            raise self._failed(method.partition("/")[2], error) from None

    def _method(self, kind: str, method: str, answer: type[Message]) -> Callable[..., Any]:
        multicallable: Callable[..., Any] = getattr(self._channel, kind)(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return multicallable

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        # etcd's own header: a member that has lost its leader ends the stream instead of going silent.
        leader = (("hasleader", "true"),)
        return (*leader, ("token", self._token)) if self._token else leader

    def _failed(self, what: str, error: Exception) -> EtcdError:
        return EtcdError(f"etcd at {self.address}: {_reason(self._settings, what, error)}")


class Watch:
    """A stream of changes: iterate to get the changes of one or more revisions at a time, complete transactions together, or an
    empty list as a sign of progress.

    Every `keepalive` seconds, progress is requested; a member that sends nothing for `timeout` seconds after that counts as failed,
    even if its connection is open. Ends with EtcdError, also if the revision was compacted, which requires reading all keys again.
    """

    def __init__(self, client: EtcdClient, key: bytes, range_end: bytes, revision: int) -> None:
        self._client = client
        self._settings = client._settings
        self._create = wire.WatchRequest(
            create_request=wire.WatchCreateRequest(key=key, range_end=range_end, start_revision=revision)
        )
        self._ended = threading.Event()
        self._heard = threading.Event()
        self._silent = False
        call = client._method("stream_stream", "Watch/Watch", wire.WatchResponse)
        try:
            self._responses = call(self._requests(), metadata=client._metadata())
        except ValueError as error:  # the channel was closed in the meantime
            raise client._failed("Watch", error) from None

    def __iter__(self) -> Iterator[list[Entry]]:
        try:
            for response in self._responses:
                self._heard.set()
                if response.compact_revision:
                    raise EtcdError(f"etcd at {self._client.address}: the revision to watch from was compacted")
                if response.canceled:
                    raise EtcdError(
                        f"etcd at {self._client.address} ended the watch: {response.cancel_reason or 'no reason given'}"
                    )
                yield [_entry(event) for event in response.events]
            raise EtcdError(f"etcd at {self._client.address} closed the watch")
        except (grpc.RpcError, ValueError) as error:
            if self._silent:
                waited = self._settings.keepalive + self._settings.timeout
                raise EtcdError(f"etcd at {self._client.address} has been silent for {waited:g} s") from None
            raise self._client._failed("Watch", error) from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop the watch; the iteration raises EtcdError. May be called from another thread, and twice."""
        self._ended.set()
        self._responses.cancel()

    def _requests(self) -> Iterator[wire.WatchRequest]:
        yield self._create
        progress = wire.WatchRequest(progress_request=wire.WatchProgressRequest())
        while not self._ended.wait(self._settings.keepalive):
            self._heard.clear()
            for _ in range(_QUESTIONS):
                yield progress
                if self._heard.wait(self._settings.timeout / _QUESTIONS) or self._ended.is_set():
                    break
            else:
                self._silent = True
                self._responses.cancel()
                return


def _entry(event: wire.Event) -> Entry:
    deleted = event.type == wire.Event.DELETE
    return Entry(event.kv.key, None if deleted else event.kv.value, event.kv.lease)


def _reason(settings: Etcd, what: str, error: Exception) -> str:
    if not isinstance(error, grpc.RpcError):
        return "the connection was closed"
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return f"the user '{settings.user}' may not do this ({what}): {details}; grant its role the prefix"
    if "user name is empty" in details:
        return f"it wants a user; set Etcd(user=..., password=...): {details}"
    if "authentication failed" in details or code is grpc.StatusCode.UNAUTHENTICATED:
        return f"it does not accept the user '{settings.user}' and its password or token: {details}"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate cannot be verified; see Etcd(ca='{settings.ca}'): {details}"
    if "TSI_DATA_CORRUPTED" in details:  # gRPC's text for a TLS alert from the server
        return f"it refuses the client's certificate, or the lack of one; see Etcd(certificate=..., key=...): {details}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {settings.timeout:g} s ({what})"
    if code is grpc.StatusCode.UNAVAILABLE and "Failed to connect" in details:
        return f"it cannot be reached ({details.rpartition(': ')[2]}); check Etcd(endpoints=...)"
    return f"{details or code.name} ({what})"


def _address(endpoint: str, tls: bool) -> tuple[str, bool]:
    """`host:port` for gRPC, and whether to use TLS: https or certificate files enable it."""
    scheme, separator, rest = endpoint.rpartition("://")
    address = rest.rstrip("/")
    try:
        parse_authority(address)
        if separator and scheme not in ("http", "https"):
            raise ValueError(f"the scheme '{scheme}' is neither http nor https")
    except ValueError as error:
        raise TargetError(
            f"the etcd endpoint '{endpoint}' cannot be used: {error}; write host:port or https://host:port"
        ) from None
    return address, scheme == "https" or (tls and not separator)


def _credentials(settings: Etcd) -> grpc.ChannelCredentials:
    """Read again for every connection, so that renewed certificates are used."""
    try:
        return CertificateFiles(ca=settings.ca, certificate=settings.certificate, key=settings.key).credentials
    except CertificateError as error:
        raise TargetError(f"Etcd({error.name}='{error.path}') {error.reason}") from None
