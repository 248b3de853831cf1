"""When to stop retrying: gRPC's retry throttle (gRFC A6) for targets where gRPC has none.

On targets of discovery gRPC retries by xDS routes, which know no throttle. There, calls made while the bucket is low carry
the metadata that discovery's routes do not retry. What counts is a call's end, after its retries, not each attempt.
"""

from discovery.xds.service_config import NO_RETRY

from ..settings import Retry

Metadata = tuple[tuple[str, str], ...]


class Throttle:
    """A token bucket: a failed call takes a token, a successful one gives back `token_ratio`."""

    def __init__(self, settings: Retry) -> None:
        self._settings = settings
        self._tokens = float(settings.max_tokens)

    def metadata(self) -> Metadata:
        """What the next call carries."""
        return () if self._tokens > self._settings.max_tokens / 2 else (NO_RETRY,)

    def succeeded(self) -> None:
        self._tokens = min(self._tokens + self._settings.token_ratio, self._settings.max_tokens)

    def failed(self) -> None:
        self._tokens = max(0.0, self._tokens - 1)
