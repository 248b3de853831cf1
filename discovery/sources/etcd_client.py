"""etcd's v3 API, as far as discovery needs it, over one connection to one member: requests in, plain values or EtcdError out.

After an error, the caller closes the client and opens another one, on the next member; the only request that is repeated here is one
whose token has expired. A member may be etcd's gRPC proxy, which answers no progress request (etcd's documented sign of life; some
versions crash at one), and drops a lease whose request stream has ended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from ..config import Etcd
from ..errors import CertificateError, SourceError, TargetError
from ..snapshot import parse_authority
from ..tls.certificates import CertificateFiles
from ..wire import Stream, own_channel
from ..wire import messages_pb2 as wire

Answer = TypeVar("Answer", bound=Message)


class EtcdError(SourceError):
    """A request to a member failed; the text is a sentence that names the member and the reason."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


_NO_AUTHENTICATION = "authentication is not enabled"
_NEW_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
"""Reasons for which etcd's Go client fetches a token and asks again: it has expired, authentication was turned on, users changed."""


class Entry(NamedTuple):
    """A key in etcd; `value` is None if it was deleted. `lease` is 0 for none. `revision` is that of its last change."""

    key: bytes
    value: bytes | None
    lease: int
    revision: int


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`: etcd's `range_end`. `prefix` must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def validate(settings: Etcd) -> None:
    """Raise TargetError for an address or a certificate file that cannot be used. Connects to nothing."""
    tls = bool(settings.ca or settings.certificate)
    if any([_address(endpoint, tls)[1] for endpoint in settings.endpoints]):
        _credentials(settings)


class EtcdClient:
    """A connection to one member. Its owner closes it, and calls `authenticate` first.

    Raises TargetError if the certificate files of the settings cannot be read.
    """

    def __init__(self, settings: Etcd, member: int) -> None:
        address, tls = _address(settings.endpoints[member % len(settings.endpoints)], bool(settings.ca or settings.certificate))
        self.settings = settings
        self.address = address
        options = (
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # a separate connection, so that closing the channel closes it
            ("grpc.max_receive_message_length", -1),  # a prefix is returned in one message
        )
        self._channel = own_channel(address, _credentials(settings) if tls else None, options)
        self._token = ""

    def close(self) -> None:
        """Close the connection and end whatever runs on it. May be called from another thread, and twice."""
        self._channel.close()

    def authenticate(self) -> None:
        """Exchange user and password, if set, for the token of every later request. Without authentication, none is needed."""
        if self.settings.user:
            request = wire.AuthenticateRequest(name=self.settings.user, password=self.settings.password)
            self._token = ""
            try:
                self._token = self._ask("Auth/Authenticate", request, wire.AuthenticateResponse, again=False).token
            except EtcdError as error:
                if _NO_AUTHENTICATION not in str(error):
                    raise

    def range(self, key: bytes, range_end: bytes = b"") -> tuple[int, list[Entry]]:
        """The revision, and every key from `key` up to `range_end`, or `key` alone. Linearizable: a member without a
        leader does not answer."""
        answer = self._ask("KV/Range", wire.RangeRequest(key=key, range_end=range_end), wire.RangeResponse)
        return answer.header.revision, [Entry(kv.key, kv.value, kv.lease, kv.mod_revision) for kv in answer.kvs]

    def changed(self, key: bytes, range_end: bytes, revision: int, count: int) -> bool:
        """Whether a range differs from what it was at `revision`, with `count` keys. Linearizable too; keys are not returned."""
        request = wire.RangeRequest(key=key, range_end=range_end, min_mod_revision=revision + 1, keys_only=True, limit=1)
        answer = self._ask("KV/Range", request, wire.RangeResponse)
        return bool(answer.kvs) or answer.count != count  # the count is that of all keys, whatever their revisions

    def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Set a key attached to `lease`; returns the revision."""
        return self._ask("KV/Put", wire.PutRequest(key=key, value=value, lease=lease), wire.PutResponse).header.revision

    def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds."""
        return self._ask("Lease/LeaseGrant", wire.LeaseGrantRequest(ttl=ttl), wire.LeaseGrantResponse).id

    def revoke(self, lease: int) -> None:
        """Revoke a lease, which deletes all of its keys."""
        self._ask("Lease/LeaseRevoke", wire.LeaseRevokeRequest(id=lease), wire.LeaseRevokeResponse)

    def keep_alive(self, deliver: Callable[[int | EtcdError], None]) -> Stream:
        """A stream that renews the lease of each request, and delivers its TTL: 0 or less if the lease has expired."""
        return self._stream("Lease/LeaseKeepAlive", wire.LeaseKeepAliveResponse, lambda answer: answer.ttl, deliver)

    def watch(self, key: bytes, range_end: bytes, revision: int, deliver: Callable[[list[Entry] | EtcdError], None]) -> Stream:
        """A stream of every change after `revision`, delivered as lists of Entry. An EtcdError ends it, also if the revision was
        compacted, which requires reading all keys again."""
        # Not from `revision` itself: what begins in the past is brought up to date by a loop that runs every 100 ms.
        create = wire.WatchCreateRequest(key=key, range_end=range_end, start_revision=revision + 1)
        stream = self._stream("Watch/Watch", wire.WatchResponse, self._changes, deliver, many=True)
        stream.send(wire.WatchRequest(create_request=create))
        return stream

    def _changes(self, response: wire.WatchResponse) -> list[Entry]:
        if response.compact_revision:
            raise EtcdError(f"etcd at {self.address}: the revision to watch from was compacted")
        if response.canceled:
            raise EtcdError(f"etcd at {self.address} ended the watch: {response.cancel_reason or 'no reason given'}")
        deleted = wire.Event.DELETE
        return [
            Entry(event.kv.key, None if event.type == deleted else event.kv.value, event.kv.lease, event.kv.mod_revision)
            for event in response.events
        ]

    def _ask(self, method: str, request: Message, answer: type[Answer], *, again: bool = True) -> Answer:
        call = self._method("unary_unary", method, answer.FromString)
        try:
            given: Answer = call(request, timeout=self.settings.timeout, metadata=self._metadata())
            return given
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed in between
            failure = self._failed(method.partition("/")[2], error)
        if again and self.settings.user and any(reason in str(failure) for reason in _NEW_TOKEN):
            self.authenticate()
            return self._ask(method, request, answer, again=False)
        raise failure

    def _stream(
        self,
        method: str,
        answer: type[Message],
        read: Callable[[Any], Any],
        deliver: Callable[[Any], None],
        *,
        many: bool = False,
    ) -> Stream:
        """Deliver what `read` makes of each answer, and at last the EtcdError that ended the stream."""
        what = method.partition("/")[2]

        def received(content: bytes) -> Message:
            message = answer.FromString(content)
            try:
                deliver(read(message))
            except EtcdError as error:
                deliver(error)
            return message

        def ended(call: grpc.RpcError) -> None:
            closed = call.code() is grpc.StatusCode.OK
            deliver(EtcdError(f"etcd at {self.address} closed the stream ({what})") if closed else self._failed(what, call))

        try:
            return Stream(self._method("stream_stream", method, received), self._metadata(), ended, many=many)
        except (ValueError, RuntimeError) as error:  # the channel was closed in between, or no thread can be started
            raise self._failed(what, error) from None

    def _method(self, kind: str, method: str, deserializer: Callable[[bytes], Any]) -> Callable[..., Any]:
        multicallable: Callable[..., Any] = getattr(self._channel, kind)(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=deserializer,
        )
        return multicallable

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        # etcd's own header: a member that has lost its leader ends the stream instead of going silent.
        leader = (("hasleader", "true"),)
        return (*leader, ("token", self._token)) if self._token else leader

    def _failed(self, what: str, error: Exception) -> EtcdError:
        code = error.code() if isinstance(error, grpc.RpcError) else None
        return EtcdError(f"etcd at {self.address}: {_reason(self.settings, what, error)}", code)


def _reason(settings: Etcd, what: str, error: Exception) -> str:
    if not isinstance(error, grpc.RpcError):
        return "the connection was closed" if isinstance(error, ValueError) else f"{error} ({what})"
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return f"the user '{settings.user}' may not do this ({what}): {details}; grant its role the prefix"
    if "user name is empty" in details:
        return f"it wants a user; set Etcd(user=..., password=...): {details}"
    if "authentication failed" in details or code is grpc.StatusCode.UNAUTHENTICATED:
        return f"it does not accept the user '{settings.user}' and its password or token: {details}"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate cannot be verified; see Etcd(ca='{settings.ca}'): {details}"
    if (
        "TSI_DATA_CORRUPTED" in details or "Unwrap failed" in details
    ):  # gRPC's texts, new and old, for a TLS alert from the server
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
