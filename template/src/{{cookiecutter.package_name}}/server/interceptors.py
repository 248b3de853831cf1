"""Your interceptors. They see every call of every service, including health checks and reflection."""

from collections.abc import Sequence

import grpc.aio

from ..settings import Settings


def interceptors(settings: Settings) -> Sequence[grpc.aio.ServerInterceptor]:
    """The interceptors of the server, outermost first."""
    return []
