"""Retries as in gRFC A6. The client makes them, not gRPC, which has no throttle under xDS: so they are the same on every target."""

import asyncio
import functools
import random
import re
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc.aio
from google.protobuf import descriptor_pool

from .serving import bounded
from .status_details import explain
from .telemetry import ClientTelemetry

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A retry policy with a throttle. attempts: the first included; 1 disables retries.   backoff: seconds, the most before the
    second attempt, doubled with each further one.   max_tokens, token_ratio: the throttle of a target, which all clients in the
    process share: a failed attempt takes a token, a successful call adds token_ratio; from half down, nothing is retried."""

    attempts: int = 3
    initial_backoff: float = 0.1
    max_backoff: float = 1.0
    status_codes: tuple[str, ...] = ("UNAVAILABLE",)
    max_tokens: int = 100
    token_ratio: float = 0.1


_tokens: dict[str, float] = {}  # of the targets that have less than max_tokens


@functools.cache
def idempotent(method: str) -> bool:
    """Whether the .proto file gives `package.Service/Method` an idempotency_level: NO_SIDE_EFFECTS or IDEMPOTENT."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))
    except KeyError:
        return False
    return bool(found.GetOptions().idempotency_level)


def name_of(method: Any) -> str:
    """The full name of a stub's method, which has no public attribute for it; discovery's channels wrap gRPC's method."""
    while not isinstance(method, bytes):
        method = method._method
    return method.decode().removeprefix("/")


class Call:
    """A call of a stub's `method`; enter it around all its attempts.

    timeout: seconds for the next attempt; at first for all of them, or what the call that is being served leaves.
    metadata: of each attempt.   final: set it when no attempt may follow, because a stream has had its first message.
    """

    def __init__(
        self, target: str, retry: Retry, telemetry: ClientTelemetry | None, metadata: Metadata, method: Any, timeout: float
    ) -> None:
        self.timeout = bounded(timeout)
        self.metadata = metadata
        self.final = False
        self._ends = time.monotonic() + self.timeout
        self._target, self._policy, self._telemetry, self._method = target, retry, telemetry, method
        self._attempts = 1
        self._backoff = retry.initial_backoff

    def __enter__(self) -> Self:
        if self._telemetry:
            self._token = self._telemetry.start(name_of(self._method))
            self.metadata += self._token.metadata
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None and self._target in _tokens:
            tokens = _tokens[self._target] + self._policy.token_ratio
            if tokens < self._policy.max_tokens:
                _tokens[self._target] = tokens
            else:
                del _tokens[self._target]
        if self._telemetry:
            self._telemetry.end(self._token, code_of(error), error, self._attempts)
        if isinstance(error, grpc.aio.AioRpcError):
            explain(error)

    async def retry(self, error: grpc.aio.AioRpcError) -> None:
        """Return when it is time for another attempt. Raises `error` if there is none."""
        policy = self._policy
        if error.code().name not in policy.status_codes:
            raise error
        tokens = _tokens[self._target] = max(0.0, _tokens.get(self._target, policy.max_tokens) - 1)
        if (
            self.final
            or self._attempts >= policy.attempts
            or tokens <= policy.max_tokens / 2
            or not idempotent(name_of(self._method))
        ):
            raise error
        delay = self._delay(error)
        if not 0 <= delay < self._ends - time.monotonic():
            raise error
        self._attempts += 1
        await asyncio.sleep(delay)
        self.timeout = max(0.0, self._ends - time.monotonic())

    def _delay(self, error: grpc.aio.AioRpcError) -> float:
        """Seconds, with full jitter, or as the server says; negative if it wants no further attempt."""
        pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        if pushback is not None:
            self._backoff = self._policy.initial_backoff
            return int(pushback) / 1000 if re.fullmatch("[0-9]{1,10}", str(pushback)) else -1.0
        longest = min(self._backoff, self._policy.max_backoff)
        self._backoff = 2 * longest
        return random.uniform(0.0, longest)


def code_of(error: BaseException | None) -> str:
    """gRPC's name for how a call has ended."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    return "OK" if error is None else "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "UNKNOWN"
