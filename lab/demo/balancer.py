"""What a ClusterIP is to gRPC: a backend is picked when a connection is made, and never again."""

import asyncio
import contextlib
from collections import Counter


class Balancer:
    """Forwards the connections of one loopback port, as kube-proxy does; picks the backend that it has picked least often."""

    def __init__(self) -> None:
        self._backends: list[tuple[str, int]] = []
        self._picked: Counter[tuple[str, int]] = Counter()
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self.port = 0

    def set(self, backends: list[tuple[str, int]]) -> None:
        """Where new connections go; those that stand are left alone."""
        self._backends = backends

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backend = min(self._backends, key=self._picked.__getitem__, default=None)
        if backend is None:
            return writer.close()
        self._picked[backend] += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*backend)
        except OSError:
            return writer.close()
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.create_task(_pump(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
    finally:
        sink.close()
