"""A web server of a sandbox on this machine's loopback, as a preview shows it to a browser."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

HEAD_BYTES_LIMIT = 65536
CONNECT_SECONDS = 5
CLONE_NEWNET = 0x40000000


def socket_inside(init: int) -> socket.socket:
    """A TCP socket in the network namespace of a container, made on a thread that ends with it."""

    def make() -> socket.socket:
        namespace = os.open(f"/proc/{init}/ns/net", os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            return socket.socket()
        finally:
            os.close(namespace)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


class Preview:
    """Forwards each connection to a port in a sandbox, and adds the token that a browser does not know."""

    def __init__(self, init: int, port: int, token: str) -> None:
        self._init, self._port, self._token = init, port, token
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Preview:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections, as a network does."""
        for each in list(self._open):
            self._end(each)

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(browser,), daemon=True).start()

    def _serve(self, browser: socket.socket) -> None:
        with browser, socket_inside(self._init) as server:
            try:
                head = self._head(browser)
                server.settimeout(CONNECT_SECONDS)
                server.connect(("127.0.0.1", self._port))
                server.settimeout(None)
                self._open |= {browser, server}
                server.sendall(head)
                back = threading.Thread(target=self._pour, args=(server, browser), daemon=True)
                back.start()
                self._pour(browser, server)
                back.join()
            except OSError:
                pass
            finally:
                self._open -= {browser, server}

    def _head(self, browser: socket.socket) -> bytes:
        """The first bytes of a request with the token; a connection is for one request, as later ones would lack it."""
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES_LIMIT:
            piece = browser.recv(HEAD_BYTES_LIMIT)
            if not piece:
                raise ConnectionError("the browser closed before it asked")
            head += piece
        line, _, rest = head.partition(b"\r\n")
        if b"upgrade: websocket" not in rest.lower():
            rest = rest.replace(b"Connection: keep-alive", b"Connection: close")
        return line + b"\r\nX-Martlet-Token: " + self._token.encode() + b"\r\n" + rest

    @staticmethod
    def _pour(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
        except OSError:
            pass
        Preview._end(source)
        Preview._end(sink)

    @staticmethod
    def _end(connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended
