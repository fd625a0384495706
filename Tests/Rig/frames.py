"""A WebSocket by hand: pings and pongs are seen, and nothing is read that the test does not ask for."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, RejectConnection, Request, TextMessage

CONNECT_SECONDS = 30
RECEIVE_BYTES = 1 << 16


class FrameSocket:
    """One connection. Pings of the other end are answered while events are taken."""

    def __init__(self, url: str, headers: dict[str, str], receive_buffer: int = 0) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(CONNECT_SECONDS)
        self._socket.connect((parts.hostname, parts.port or 80))
        self._frames = WSConnection(ConnectionType.CLIENT)
        self.closed: CloseConnection | None = None
        self.pings = 0
        self._pending: list[Event] = []
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        kept = [(name.encode(), value.encode()) for name, value in headers.items() if name.lower() == "authorization"]
        self._send(Request(host=parts.netloc, target=target, extra_headers=kept))
        answer = self.next(CONNECT_SECONDS)
        if isinstance(answer, RejectConnection):
            raise ConnectionError(f"{url}: refused with status {answer.status_code}")
        assert isinstance(answer, AcceptConnection), answer

    def __enter__(self) -> FrameSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection without a word, as a client does that is killed."""
        self._socket.close()

    def ping(self, payload: bytes) -> None:
        self._send(Ping(payload))

    def send(self, data: bytes) -> None:
        self._send(BytesMessage(data))

    def _send(self, event: Event) -> None:
        self._socket.sendall(self._frames.send(event))

    def next(self, seconds: float) -> Event | None:
        """The next event; None when none came in time. Raises `ConnectionError` when the connection ended without a close."""
        end = time.monotonic() + seconds
        while True:
            while not self._pending:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                try:
                    data = self._socket.recv(RECEIVE_BYTES)
                except TimeoutError:
                    return None
                if not data and self.closed is None:
                    raise ConnectionError("the connection ended without a close frame")
                self._frames.receive_data(data or None)
                self._pending = list(self._frames.events())
            event = self._pending.pop(0)
            match event:
                case Ping():
                    self.pings += 1
                    self._send(event.response())
                case CloseConnection():
                    self.closed = event
                    return event
                case Pong() | BytesMessage() | TextMessage() | AcceptConnection() | RejectConnection():
                    return event

    def read_until(self, text: bytes, seconds: float) -> int:
        """Takes messages until one holds or completes the text; answers how many bytes came."""
        end, tail, count = time.monotonic() + seconds, b"", 0
        while text not in tail:
            event = self.next(end - time.monotonic())
            assert event is not None and not isinstance(event, CloseConnection), f"{text!r} did not come: {event}, {tail[-100:]!r}"
            if isinstance(event, BytesMessage | TextMessage):
                data = bytes(event.data) if isinstance(event, BytesMessage) else event.data.encode()
                count += len(data)
                tail = tail[-len(text) :] + data
        return count
