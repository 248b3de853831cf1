"""A registry that sends invalid answers: on TCP to whoever connects, on UDP in the place of the right answer."""

import contextlib
import os
import socket
import socketserver
import threading


class _Nonsense(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(os.urandom(512))


class Tcp:
    """Sends 512 random bytes to every connection and closes it. `place` is where."""

    def __init__(self) -> None:
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Nonsense)
        self._server.daemon_threads = True
        self.place: tuple[str, int] = ("127.0.0.1", self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="garbage", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Udp:
    """Stands between a DNS client and its server; while `spoiled` is set, it answers with random bytes by itself."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.spoiled = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="garbage", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(65535)
            if not question:
                return
            if self.spoiled.is_set():
                self._socket.sendto(question[:2] + os.urandom(200), client)
                continue
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, contextlib.suppress(OSError):
                asked.settimeout(2)
                asked.sendto(question, self._upstream)
                self._socket.sendto(asked.recv(65535), client)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
