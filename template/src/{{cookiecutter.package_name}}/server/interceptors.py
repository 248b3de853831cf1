"""Your interceptors, outermost first. They see every call of every service, health checks and reflection included."""

from collections.abc import Sequence

import grpc.aio

INTERCEPTORS: Sequence[grpc.aio.ServerInterceptor] = ()
