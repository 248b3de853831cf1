"""A TCP proxy between a source and its registry: it can cut connections, refuse them, or fall silent."""

import contextlib
import select
import socket
import threading


class Proxy:
    """Forwards to `upstream` (host, port) from `address`, on loopback. `accepted` counts connections."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._refusing = False
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                if self._refusing:
                    near.close()
                    continue
                try:
                    pair = (near, socket.create_connection(self._upstream))
                except OSError:  # the registry itself is down
                    near.close()
                    continue
                for side in pair:  # what is small must not wait for an acknowledgement
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append(pair)
                self._threads.append(threading.Thread(target=self._forward, args=pair, name="proxy", daemon=True))
                self._threads[-1].start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with contextlib.suppress(OSError), near, far:
            while True:
                for side in select.select([near, far], [], [])[0]:
                    content = side.recv(2**16)
                    self._open.wait()
                    if not content:
                        return
                    other[side].sendall(content)

    @property
    def connections(self) -> int:
        """How many are open at this moment."""
        with self._lock:
            return sum(near.fileno() != -1 for near, _ in self._pairs)

    def silence(self) -> None:
        """Forward nothing more, and keep all connections."""
        self._open.clear()

    def refuse(self) -> None:
        """Cut all connections, and close every new one at once."""
        with self._lock:
            self._refusing = True
        self.cut()

    def mend(self) -> None:
        """Forward again."""
        with self._lock:
            self._refusing = False
        self._open.set()

    def redirect(self, upstream: tuple[str, int]) -> None:
        """From now on forward elsewhere."""
        with self._lock:
            self._upstream = upstream
        self.cut()

    def cut(self) -> None:
        """Break the connections there are."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection and thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.cut()
        for thread in self._threads:
            thread.join()
